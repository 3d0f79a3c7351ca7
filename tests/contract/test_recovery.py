"""What recovery promises to whoever prunes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_networks import NETWORKS, tiny_network, tiny_spec
from tiny_networks import tiny_images as images
from torch import Tensor, nn

from mixmix import (
    FineTune,
    Prune,
    ReconstructFeatures,
    Recovery,
    ReestimateBatchNorm,
    TrainingSettings,
    recover,
)
from mixmix.compress.recover.fine_tuning import interpolate_
from mixmix.errors import InputError
from mixmix.models.model import normalize

families = pytest.mark.parametrize("family", sorted(NETWORKS))
RECOVERIES: dict[str, Recovery] = {
    "batch-norm": ReestimateBatchNorm(),
    "reconstruct": ReconstructFeatures(iterations=20, batch_size=8, views=64),
    "fine-tune": FineTune(TrainingSettings(steps=20, batch_size=8)),
}


def damaged(family: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy without the smaller half of every kernel, and the masks that say so."""
    model = tiny_network(family)
    masks = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            kept = parameter.detach().abs() >= parameter.detach().abs().median()
            masks[name] = kept
            parameter.data.mul_(kept)
    return model, masks


def error(student: nn.Module, family: str) -> float:
    x = normalize(images().images, tiny_spec(family))
    with torch.no_grad():
        wanted, got = tiny_network(family)(x), student(x)
    return float((got - wanted).norm() / wanted.norm())


@families
@pytest.mark.parametrize("name", sorted(RECOVERIES))
def test_contract(family: str, name: str) -> None:
    student, masks = damaged(family)
    before = copy.deepcopy(student.state_dict())
    teacher = tiny_network(family)
    recovery = RECOVERIES[name]
    found = recover(student, teacher, images(), tiny_spec(family), recovery, masks=masks, seed=0)
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())
    again = recover(student, teacher, images(), tiny_spec(family), recovery, masks=masks, seed=0)
    for key, value in found.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    for key, kept in masks.items():
        assert not found.get_parameter(key)[~kept].any()
    assert not found.training and not any(p.requires_grad for p in found.parameters())
    if name == "batch-norm":
        for key, value in found.state_dict().items():
            assert torch.equal(before[key], value) != ("running_" in key), key
    else:
        assert error(found, family) < error(student, family)


@families
@pytest.mark.parametrize("least_squares", [0, 50])
def test_units_that_would_become_worse_stay(family: str, least_squares: int) -> None:
    student, masks = damaged(family)
    teacher = tiny_network(family)
    diverging = ReconstructFeatures(
        least_squares=least_squares, iterations=2, learning_rate=1e3, views=0
    )
    found = recover(student, teacher, images(), tiny_spec(family), diverging, masks=masks, seed=0)
    assert error(found, family) <= error(student, family)


def test_weights_stay_where_images_are_too_few_to_fit_them() -> None:
    student, masks = damaged("plain")
    name = next(name for name, weight in student.named_parameters() if weight.ndim == 2)
    recovery = ReconstructFeatures(iterations=0, views=0)

    def fitted(num_images: int) -> Tensor:
        teacher, data = tiny_network("plain"), images(num_images)
        found = recover(student, teacher, data, tiny_spec("plain"), recovery, masks=masks, seed=0)
        return found.get_parameter(name)

    # A row keeps 8 of 16 weights, and every image is one place.
    assert torch.equal(fitted(12), student.get_parameter(name))
    assert not torch.equal(fitted(32), student.get_parameter(name))


@families
def test_statistics_of_an_unchanged_network_stay(family: str) -> None:
    teacher = tiny_network(family)
    found = recover(teacher, teacher, images(), tiny_spec(family), ReestimateBatchNorm(), seed=0)
    for key, value in found.state_dict().items():
        assert torch.allclose(value, teacher.state_dict()[key], rtol=1e-3, atol=1e-4), key


def test_statistics_keep_images_as_far_from_the_training_data_as_they_were() -> None:
    norm = nn.BatchNorm2d(4).eval()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))  # type: ignore[union-attr]
    norm.running_var.fill_(4.0)  # type: ignore[union-attr]
    layers = (nn.Conv2d(3, 4, 1), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, 4))
    teacher = nn.Sequential(*layers).eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    student[0].weight.mul_(3)  # type: ignore[operator, union-attr]
    student[0].bias.mul_(3).add_(5)  # type: ignore[operator, union-attr]
    found = recover(student, teacher, images(), tiny_spec("plain"), ReestimateBatchNorm(), seed=0)
    x = normalize(images().images, tiny_spec("plain"))
    assert torch.allclose(found(x), teacher(x), atol=1e-3)


class Blocks(nn.Module):
    """A residual block between two layers, whose inner width is free."""

    def __init__(self, inner: int, outer: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, outer, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outer)
        self.first = nn.Conv2d(outer, inner, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(inner)
        self.second = nn.Conv2d(inner, outer, 3, padding=1)
        self.head = nn.Linear(outer, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.second(torch.relu(self.first_norm(self.first(x))))
        return self.head(torch.relu(x).mean((2, 3)))


def narrowed(teacher: Blocks, inner: Tensor, outer: Tensor) -> Blocks:
    """Only some of the channels of the block, and of what goes through it."""
    student = Blocks(len(inner), len(outer)).eval()
    state = teacher.state_dict()
    axes = {"stem": (outer, None), "first": (inner, outer), "second": (outer, inner)}
    norms = {"norm": outer, "first_norm": inner}
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        if layer in norms and tensor.ndim:
            state[name] = tensor[norms[layer]]
        elif layer in axes:
            out, taken = axes[layer]
            tensor = tensor[out]
            state[name] = tensor if leaf == "bias" or taken is None else tensor[:, taken]
        elif name == "head.weight":
            state[name] = tensor[:, outer]
    student.load_state_dict(state)
    return student.requires_grad_(False)


def cases() -> Iterator[tuple[Tensor, Tensor]]:
    yield torch.tensor([0, 2, 5]), torch.arange(8)
    yield torch.tensor([1, 2, 3, 4]), torch.tensor([0, 1, 3, 4, 6])


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("name", sorted(RECOVERIES))
@pytest.mark.parametrize(("inner", "outer"), list(cases()))
def test_narrower_networks_recover(inner: Tensor, outer: Tensor, name: str, told: bool) -> None:
    torch.manual_seed(0)
    teacher = Blocks(6)
    for _ in range(4):
        teacher(torch.randn(16, 3, 16, 16))
    teacher = teacher.eval().requires_grad_(False)
    student = narrowed(teacher, inner, outer)
    kept = {"first": inner, "first_norm": inner}
    if len(outer) < 8:
        kept |= dict.fromkeys(("stem", "norm", "second"), outer)
    found = recover(
        student,
        teacher,
        images(),
        tiny_spec("plain"),
        RECOVERIES[name],
        kept_channels=kept if told else None,
        seed=0,
    )
    x = normalize(images().images, tiny_spec("plain"))
    wanted = teacher(x)
    errors = [float((net(x) - wanted).norm()) for net in (student, found)]
    assert all(torch.isfinite(t).all() for t in found.state_dict().values())
    if name != "batch-norm":
        assert errors[1] < errors[0]


def test_masks_that_fit_no_weight_are_refused() -> None:
    model = tiny_network("plain")
    with pytest.raises(InputError, match=r"has no weight nothing\.weight of shape"):
        recover(
            model,
            model,
            images(),
            tiny_spec("plain"),
            (),
            masks={"nothing.weight": torch.ones(2, dtype=torch.bool)},
            seed=0,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": -1}, "iterations must be a whole number >= 0"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"views": 0.5}, "views must be a whole number >= 0 or None, got 0.5"),
    ],
)
def test_refuses_settings_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReconstructFeatures(**options)  # type: ignore[arg-type]


def test_result_lies_where_held_out_images_want_it() -> None:
    torch.manual_seed(0)
    wanted = nn.Linear(6, 4)
    before, student = copy.deepcopy(wanted), copy.deepcopy(wanted)
    change = torch.randn(4, 6)
    with torch.no_grad():
        before.weight.add_(change, alpha=0.75)
        student.weight.sub_(change, alpha=0.25)
    inputs = torch.randn(20, 6)
    interpolate_(student, dict(before.named_parameters()), inputs, wanted(inputs))
    torch.testing.assert_close(student.weight, wanted.weight)


def test_held_out_images_are_checked() -> None:
    with pytest.raises(InputError, match="held_out must not be negative, got -1"):
        FineTune(held_out=-1)


@pytest.mark.parametrize("given", ["fine-tune", [FineTune], [FineTune(), 3]])
def test_what_is_no_recovery_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="is not a recovery; expected an object with recover_"):
        Prune(0.5, recovery=given)
