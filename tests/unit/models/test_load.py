"""``load``: one network from whatever names it, and what the caller adds to that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec, tiny_teacher
from torch import Tensor, nn

from mixmix import Model, ModelSpec, Zoo, load
from mixmix.errors import InputError, MixmixWarning
from mixmix.models.model import normalize


def test_a_bare_module_is_completed_by_arguments() -> None:
    module = tiny_network("plain")
    model = load(module, input_shape=INPUT_SHAPE, mean=0.5, std=(0.2, 0.25, 0.3))
    assert model.spec.name == type(module).__name__
    assert model.spec.source == "module"
    assert model.spec.num_classes == NUM_CLASSES
    assert model.spec.mean == (0.5, 0.5, 0.5)
    assert model.spec.std == (0.2, 0.25, 0.3)
    images = torch.rand(3, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    expected = module.eval()(normalize(images, model.spec))
    torch.testing.assert_close(model(images), expected)


def test_the_callers_module_stays_as_it_is() -> None:
    module = tiny_network("plain").train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    load(module, input_shape=INPUT_SHAPE, mean=0.5, std=0.25)
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_module_without_a_head_is_a_backbone() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.warns(MixmixWarning, match="as before training"):
        model = load(module, input_shape=INPUT_SHAPE, mean=0, std=1, name="features")
    assert model.spec.num_classes == 0 and model.spec.name == "features"


def test_what_is_given_is_not_searched_for() -> None:
    classes = ("a", "b", "c", "d")
    module = tiny_network("plain")
    model = load(module, input_shape=INPUT_SHAPE, mean=0.5, std=0.25, classes=classes)
    assert model.spec.classes == classes and model.spec.num_classes == 4
    with pytest.raises(InputError, match=r"check num_classes"):
        load(module, input_shape=INPUT_SHAPE, mean=0.5, std=0.25, num_classes=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "does not specify its input_shape, mean, std; write load"),
        ({"input_shape": INPUT_SHAPE, "mean": 0.5}, "does not specify its std"),
        ({"input_shape": (3, 16), "mean": 0.5, "std": 1}, "must be .channels, height, width"),
        ({"input_shape": INPUT_SHAPE, "mean": (0.5, 0.5), "std": 1}, "each of the 3 channels"),
        ({"input_shape": (1, 16, 16), "mean": 0, "std": 1}, "cannot take images of"),
        ({"input_shape": INPUT_SHAPE, "mean": 0, "std": 1, "weights": "w.pth"}, "weights already"),
    ],
)
def test_errors_say_what_is_missing(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(tiny_network("plain"), **given)


def test_a_model_passes_through_unless_something_changes() -> None:
    model = tiny_teacher("plain")
    assert load(model) is model
    assert load(model, device="cpu") is model
    renamed = load(model, name="other")
    assert renamed.spec.name == "other" and renamed.spec.sha256 == model.spec.sha256
    assert model.spec.name == "plain"


def test_pairs_and_specs() -> None:
    pair = (tiny_network("plain"), tiny_spec("plain"))
    assert load(pair).spec.name == "plain"
    assert load(pair, mean=0.5).spec.mean == (0.5, 0.5, 0.5)
    with pytest.raises(InputError, match=r"must be a pair .module, ModelSpec.*, got .str, str"):
        load(("bundled:vgg", "bundled:resnet"))  # type: ignore[arg-type]


def test_arguments_override_a_reference() -> None:
    model = load("bundled:resnet", name="mine", mean=0.5)
    assert model.spec.name == "mine"
    assert model.spec.mean == (0.5, 0.5, 0.5)
    assert model.spec.num_classes == 10


@pytest.mark.parametrize("reference", ["nonsense", 3])
def test_what_is_no_reference(reference: Any) -> None:
    with pytest.raises(InputError, match="expected bundled:|expected timm:|timm:NAME"):
        load(reference)


def test_zoos_of_one_of_many_and_of_models() -> None:
    model = tiny_teacher("plain")
    assert Zoo.load(model)[0] is model
    assert Zoo.load("bundled:vgg").names == ("vgg",)
    pair = (tiny_network("residual"), tiny_spec("residual"))
    assert Zoo.load(pair).names == ("residual",)
    zoo = Zoo.load([model, pair])
    assert zoo.names == ("plain", "residual") and zoo[0] is model
    assert Zoo.load(zoo) is zoo
    with pytest.raises(InputError, match="a network or a list of networks, got int"):
        Zoo.load(3)  # type: ignore[arg-type]


def test_one_number_for_all_channels_in_a_spec() -> None:
    spec = ModelSpec("x", "module", [3, 8, 8], 0.5, 1, 4)  # type: ignore[arg-type]
    assert spec.mean == (0.5, 0.5, 0.5) and spec.std == (1.0, 1.0, 1.0)
    assert ModelSpec.from_dict(spec.to_dict()) == spec


def test_logits_come_in_batches_without_gradients() -> None:
    model: Model = tiny_teacher("plain")
    images = torch.rand(5, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    logits = model.logits(images, batch_size=2)
    torch.testing.assert_close(logits, model(images))
    assert not logits.requires_grad


class _Centered(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0, keepdim=True)).flatten(1)[:, :4]


class _MeanRemoved(nn.Module):
    """Sees the brightness of other images alone, and has a bias that hides it."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean()).mean((2, 3)) + 50


class _PairsOnly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).reshape(2, -1)[:, :4]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (_Centered(), "other outputs .* with others in its batch"),
        (
            nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten()),
            "other outputs .* with others in its batch",
        ),
        (_MeanRemoved(), "other outputs .* with others in its batch"),
        (_PairsOnly(), "runs on 2 images, but not on 4"),
    ],
)
def test_images_are_independent_of_their_batch(module: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(module, input_shape=(3, 8, 8), mean=0.5, std=0.25)


def test_integers_are_no_logits() -> None:
    class Chosen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).argmax(1)

    with pytest.raises(InputError, match="returns int64 values, expected logits"):
        load(Chosen(), input_shape=(3, 8, 8), mean=0.5, std=0.25)


def test_masks_may_be_infinite_and_weights_may_not() -> None:
    class Masked(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.register_buffer(name, torch.tensor([0.0, -float("inf"), 0.0, 0.0]))
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            weights = (x.mean((2, 3)) + getattr(self, self.name)[:3]).softmax(1)
            return torch.cat([3 * weights, x.mean((1, 2, 3))[:, None]], 1)

    assert load(Masked("mask"), input_shape=(3, 8, 8), mean=0.5, std=0.25).spec.num_classes == 4
    with pytest.raises(InputError, match="running_mean contains NaN or infinite"):
        load(Masked("running_mean"), input_shape=(3, 8, 8), mean=0.5, std=0.25)
