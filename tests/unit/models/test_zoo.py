from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec, tiny_teacher
from torch import nn

from mixmix import Model, Zoo
from mixmix.errors import InputError


def member(name: str, **changes: Any) -> tuple[nn.Module, Any]:
    return tiny_network(name), tiny_spec(name, **changes)


def backbone(name: str) -> Model:
    model = nn.Sequential(*list(tiny_network(name))[:-1])
    return Model(model, tiny_spec(name, num_classes=0, label_set=""))


def test_a_zoo_is_a_sequence(zoo: Zoo) -> None:
    assert len(zoo) == 3
    assert zoo.names == ("plain", "residual", "depthwise")
    assert [teacher.spec.name for teacher in zoo] == list(zoo.names)
    assert zoo[-1].spec.name == "depthwise"
    assert zoo.num_classes == NUM_CLASSES
    assert zoo.input_shape == INPUT_SHAPE
    assert zoo.device == torch.device("cpu")


def test_images_take_the_largest_size() -> None:
    zoo = Zoo.load([member("plain", input_shape=(3, 16, 24)), member("residual")])
    assert zoo.input_shape == (3, 16, 24)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "at least one network"),
        ([member("plain"), member("plain")], "different names, got plain, plain"),
    ],
)
def test_members_that_do_not_go_together(members: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Zoo.load(members)


def test_a_zoo_of_references_is_loaded() -> None:
    with pytest.raises(InputError, match=r"got an object of type str; .* Zoo.load\(\[...\]\)"):
        Zoo(["bundled:vgg"])  # type: ignore[list-item]


def test_other_classes_or_channels_are_refused() -> None:
    small = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(3, 2))
    with pytest.raises(InputError, match="the label set tiny, but 4 and 2 classes"):
        Zoo.load([member("plain"), (small, tiny_spec("residual", num_classes=2))])
    gray = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(1, NUM_CLASSES))
    spec = tiny_spec("residual", input_shape=[1, 16, 16], mean=[0.5], std=[0.5])
    with pytest.raises(InputError, match="agree on their channels, got plain: 3, residual: 1"):
        Zoo.load([member("plain"), (gray, spec)])


def test_soft_labels_average_the_headed_members() -> None:
    plain, residual = tiny_teacher("plain"), tiny_teacher("residual")
    zoo = Zoo([plain, backbone("depthwise"), residual])
    images = torch.rand(7, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    expected = (plain(images).softmax(1) + residual(images).softmax(1)) / 2
    found = zoo.soft_labels(images, batch_size=3)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(found.sum(1), torch.ones(7))
    assert not found.requires_grad


def test_backbones_alone_have_no_soft_labels() -> None:
    zoo = Zoo([backbone("plain")])
    assert zoo.num_classes == 0
    assert zoo.soft_labels(torch.rand(3, *INPUT_SHAPE)).shape == (3, 0)
