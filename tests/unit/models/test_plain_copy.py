"""What is around a network or inside its layers for training is gone in a teacher."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_networks import INPUT_SHAPE, tiny_network, tiny_spec
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

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
