from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import INPUT_SHAPE, NETWORKS, NUM_CLASSES, tiny_network, tiny_spec, tiny_teacher
from torch import Tensor, nn

from mixmix import Model
from mixmix.errors import InputError
from mixmix.models.model import normalize
from mixmix.runtime.storage import sha256_of_tensors


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def num_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Failing(nn.Sequential):
    """A network that fails behind its BatchNorm layer once it is told to."""

    broken = False

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.broken:
            raise ArithmeticError("broken")
        return x


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_logits_are_those_of_the_model_on_normalized_images(name: str) -> None:
    teacher, batch = tiny_teacher(name), images(5, *INPUT_SHAPE)
    mean = torch.tensor(teacher.spec.mean).view(1, 3, 1, 1)
    std = torch.tensor(teacher.spec.std).view(1, 3, 1, 1)
    expected = tiny_network(name)((batch - mean) / std)
    assert torch.allclose(teacher(batch), expected, atol=1e-5)


def test_callers_model_is_not_touched() -> None:
    model = tiny_network("residual").train()
    before = sha256_of_tensors(model.state_dict())
    teacher = Model(model, tiny_spec("residual"))
    batch = images(5, *INPUT_SHAPE).requires_grad_()
    teacher.observe(batch).logits.sum().backward()
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert sha256_of_tensors(model.state_dict()) == before
    assert num_hooks(model) == 0


def test_teacher_is_frozen_and_its_hooks_come_off() -> None:
    teacher = tiny_teacher("depthwise")
    batch = images(5, *INPUT_SHAPE).requires_grad_()
    observation = teacher.observe(batch)
    (observation.logits.sum() + observation.statistics[-1].var.sum()).backward()
    assert batch.grad is not None and batch.grad.abs().sum() > 0
    assert not any(module.training for module in teacher.module.modules())
    assert all(not p.requires_grad and p.grad is None for p in teacher.module.parameters())
    assert num_hooks(teacher.module) == 0
    assert teacher.spec.sha256 == sha256_of_tensors(teacher.module.state_dict())


def test_hooks_come_off_after_an_exception() -> None:
    teacher = Model(Failing(), tiny_spec("plain"))
    teacher.module.broken = True  # type: ignore[assignment]
    with pytest.raises(ArithmeticError):
        teacher.observe(images(2, *INPUT_SHAPE))
    assert num_hooks(teacher.module) == 0


def test_batch_norm_without_running_statistics_is_not_observed() -> None:
    model = nn.Sequential(
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.BatchNorm2d(3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.Linear(3, NUM_CLASSES),
    )
    teacher = Model(model, tiny_spec("plain"))
    assert len(teacher.observe(images(4, *INPUT_SHAPE)).statistics) == 1


def test_images_of_another_size_are_resized() -> None:
    assert tiny_teacher("plain")(images(2, 3, 24, 20)).shape == (2, NUM_CLASSES)


def test_backbone_without_label_head() -> None:
    model = nn.Sequential(*list(tiny_network("plain"))[:-1])
    teacher = Model(model, tiny_spec("plain", num_classes=0))
    assert not teacher.has_label_head
    assert len(teacher.observe(images(2, *INPUT_SHAPE)).statistics) == 3


@pytest.mark.parametrize("index", [(..., 0), (0, 0), (slice(None), None), (None,)])
def test_outputs_without_a_row_for_each_image(index: tuple[object, ...]) -> None:
    class Squeezed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            outputs: Tensor = super().forward(x).T if index[0] != ... else super().forward(x)
            return outputs[index]

    with pytest.raises(InputError, match="for 2 images, expected .* a row for each image"):
        Model(Squeezed(tiny_network("plain")), tiny_spec("plain", num_classes=0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_run_in_float32(dtype: torch.dtype) -> None:
    model = tiny_network("plain").to(dtype)
    logits = Model(model, tiny_spec("plain"))(images(2, *INPUT_SHAPE))
    assert logits.dtype == torch.float32
    assert model[0][0].weight.dtype == dtype
    torch.testing.assert_close(
        logits, tiny_teacher("plain")(images(2, *INPUT_SHAPE)), atol=0.05, rtol=0
    )


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (None, {"num_classes": 10}, r"outputs of shape \(2, 4\) .* expected \(2, 10\)"),
        (
            None,
            {"input_shape": [1, 16, 16], "mean": [0.5], "std": [0.5]},
            r"cannot take images of \(1, 16, 16\).*check input_shape",
        ),
        (None, {"input_shape": [3, 2, 2]}, r"cannot take images of \(3, 2, 2\)"),
        (Pair(), {}, "returns a tuple, expected a tensor of logits"),
        (nn.Conv2d(3, 4, 1), {}, r"outputs of shape \(2, 4, 16, 16\)"),
        (nn.Embedding(3, 4), {}, "cannot take images"),
        (
            nn.Sequential(tiny_network("plain"), nn.Softmax(1)),
            {},
            "returns probabilities, .* logits",
        ),
    ],
)
def test_model_that_does_not_fit_its_spec(
    model: nn.Module | None, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Model(model or tiny_network("plain"), tiny_spec("plain", **changes))


def test_views_in_a_networks_own_code_find_contiguous_features() -> None:
    teacher = tiny_teacher("viewed")
    batch = images(4, *INPUT_SHAPE)
    wanted = tiny_network("viewed")(normalize(batch, teacher.spec))
    for given in (batch, batch.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(teacher(given), wanted)
        torch.testing.assert_close(teacher.observe(given).logits, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(40, 28), (16, 16), (9, 30)])
def test_images_of_another_size_are_resized_as_pillow_does(size: tuple[int, int]) -> None:
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    spec = tiny_spec("plain", mean=(0.0,) * 3, std=(1.0,) * 3)
    found = normalize(images, spec)[0]
    height, width = spec.input_shape[1:]
    for channel, wanted in zip(found, images[0], strict=True):
        # Its bilinear filter is as wide as what a pixel stands for.
        picture = Image.fromarray(wanted.numpy()).resize((width, height), Image.Resampling.BILINEAR)
        torch.testing.assert_close(channel, torch.from_numpy(np.array(picture)), atol=1e-5, rtol=0)
