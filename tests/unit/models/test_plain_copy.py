"""What is around a network or inside its layers for training is gone in a teacher."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_networks import INPUT_SHAPE, tiny_network, tiny_spec
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from mixmix import Model, load
from mixmix.errors import InputError
from mixmix.models.model import normalize

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

IMAGES = torch.rand(4, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel, torch.compile]
)
def test_networks_are_taken_out_of_what_is_around_them(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    plain = Model(tiny_network("plain"), tiny_spec("plain"))
    wrapped = Model(wrap(tiny_network("plain")), tiny_spec("plain"))
    assert wrapped.module.state_dict().keys() == plain.module.state_dict().keys()
    assert wrapped.spec.sha256 == plain.spec.sha256
    torch.testing.assert_close(wrapped(IMAGES), plain(IMAGES))


@pytest.mark.parametrize(
    "normalize_weight",
    [weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm],
)
def test_normalized_weights_become_plain_in_the_copy_alone(
    normalize_weight: Callable[[nn.Module], nn.Module],
) -> None:
    model = tiny_network("no-batch-norm")
    assert isinstance(model, nn.Sequential)
    normalize_weight(model[2])
    model.eval()
    inputs = normalize(IMAGES, tiny_spec("no-batch-norm"))
    wanted = model(inputs)  # with a history of gradients, which weights keep
    names = list(model.state_dict())

    teacher = Model(model, tiny_spec("no-batch-norm"))
    assert teacher.module.state_dict().keys() == tiny_network("no-batch-norm").state_dict().keys()
    torch.testing.assert_close(teacher(IMAGES), wanted.detach())
    twin = tiny_network("no-batch-norm")
    twin.load_state_dict(teacher.module.state_dict())
    torch.testing.assert_close(twin(inputs), wanted.detach())

    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(inputs).detach(), wanted.detach())


def test_torchscript_is_refused() -> None:
    scripted = torch.jit.trace(tiny_network("plain"), torch.rand(2, *INPUT_SHAPE))
    with pytest.raises(InputError, match="is a TorchScript module.* made from, or .* ONNX"):
        Model(scripted, tiny_spec("plain"))


@pytest.mark.parametrize(
    ("device", "layer", "why"),
    [
        ("meta", nn.Conv2d(3, 4, 1, device="meta"), "on the meta device"),
        ("cpu", nn.LazyConv2d(4, 1), "lazy"),
    ],
)
def test_weights_without_values(device: str, layer: nn.Module, why: str) -> None:
    network = nn.Sequential(layer, nn.Flatten())
    with pytest.raises(InputError, match=f"its weights were never loaded: 0.*{why}"):
        load(network, input_shape=(3, 4, 4), mean=0.5, std=0.25)


def _masked_weights(model: nn.Sequential) -> None:
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, "weight", 0.3)
        prune.random_unstructured(layer, "weight", 0.2)


def _masked_bias(model: nn.Sequential) -> None:
    prune.l1_unstructured(model[2], "bias", 0.5)


def _masked_and_normalized(model: nn.Sequential) -> None:
    weight_norm(model[2])
    prune.l1_unstructured(model[2], "weight_v", 0.5)


@pytest.mark.parametrize("mask", [_masked_weights, _masked_bias, _masked_and_normalized])
@pytest.mark.parametrize("run", [False, True])
def test_masks_of_torch_become_zeros_in_the_copy_alone(
    mask: Callable[[nn.Sequential], None], run: bool
) -> None:
    model = tiny_network("no-batch-norm")
    assert isinstance(model, nn.Sequential)
    mask(model)
    model.eval()
    inputs = normalize(IMAGES, tiny_spec("no-batch-norm"))
    if run:
        with torch.no_grad():
            model(inputs)
    names = list(model.state_dict())
    teacher = Model(model, tiny_spec("no-batch-norm"))
    assert teacher.module.state_dict().keys() == tiny_network("no-batch-norm").state_dict().keys()
    torch.testing.assert_close(teacher(IMAGES), model(inputs).detach())
    assert list(model.state_dict()) == names


def test_networks_may_keep_activations_with_gradients() -> None:
    model = tiny_network("plain")
    model.register_forward_hook(lambda module, _, output: setattr(module, "last", [output]))
    inputs = normalize(IMAGES, tiny_spec("plain"))
    wanted = model(inputs)
    torch.testing.assert_close(Model(model, tiny_spec("plain"))(IMAGES), wanted.detach())


def test_hooks_that_only_observe_are_not_copied() -> None:
    model, seen = tiny_network("plain").eval(), list[torch.Tensor]()
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    layers[0].register_forward_hook(lambda _, __, output: seen.append(output))
    layers[1].register_forward_hook(lambda _, __, output: output.clamp(max=1e6))
    teacher = Model(model, tiny_spec("plain"))
    count = len(seen)
    teacher(IMAGES)
    assert len(seen) == count
    # A hook that changes nothing for these images may do so for others.
    assert sum(len(layer._forward_hooks) for layer in teacher.module.modules()) == 1
    assert sum(len(layer._forward_hooks) for layer in model.modules()) == 2


class _WithSkip(nn.Module):
    """Reads in its forward what a hook has stored."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 10, 3, 2), nn.Flatten(2)
        self.conv.register_forward_hook(lambda module, _, output: setattr(module, "kept", output))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x)).amax(2) + self.conv.kept.mean((2, 3))


def test_hooks_whose_records_the_network_reads_are_copied() -> None:
    spec = tiny_spec("plain", num_classes=10)
    model = _WithSkip().eval()
    teacher = Model(model, spec)
    for images in (IMAGES, IMAGES.flip(0)):
        wanted = model(normalize(images, spec)).detach()
        torch.testing.assert_close(teacher(images).detach(), wanted)


class _Uncopied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 10)

    def __deepcopy__(self, memo: object) -> nn.Module:
        return _Uncopied()  # with other weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(x.mean((2, 3)))
        return logits


def test_copies_with_other_outputs_are_refused() -> None:
    with pytest.raises(InputError, match="a copy of the network gives other outputs"):
        Model(_Uncopied().eval(), tiny_spec("plain", num_classes=10))
