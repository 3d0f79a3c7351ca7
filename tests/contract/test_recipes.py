"""What every recipe promises for every family of networks; a new recipe or family adds a row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, NUM_CLASSES, tiny_network, tiny_spec, tiny_teacher
from torch import nn

from mixmix import ImageSet, Model, Zoo, recipe, synthesize
from mixmix.errors import InputError
from mixmix.runtime.storage import sha256_of_tensors
from mixmix.synthesis.recipes import RECIPES

SMALL = {"num_images": 6, "batch_size": 4, "iterations": 2}


def small(name: str) -> dict[str, int]:
    # What is not optimized stays so: its iterations are what makes it so.
    return {
        key: value
        for key, value in SMALL.items()
        if RECIPES[name].iterations or key != "iterations"
    }


def check(data: ImageSet, channels: int = 3, num_classes: int = NUM_CLASSES) -> None:
    assert data.images.shape == (6, channels, *INPUT_SHAPE[1:])
    assert data.images.dtype == torch.float32
    assert torch.isfinite(data.images).all()
    assert data.images.min() >= 0 and data.images.max() <= 1
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [index % max(num_classes, 1) for index in range(6)]
    assert data.soft_labels.shape == (6, num_classes)
    assert data.soft_labels.dtype == torch.float32
    if num_classes:
        torch.testing.assert_close(data.soft_labels.sum(1), torch.ones(6))


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.parametrize("network", list(NETWORKS))
def test_every_recipe_serves_every_family(network: str, name: str, tmp_path: Path) -> None:
    teacher = tiny_teacher(network)
    zoo, settings = Zoo([teacher]), recipe(name, **small(name))
    before = sha256_of_tensors(teacher.module.state_dict())
    if network == "no-batch-norm" and name == "zeroq":
        with pytest.raises(InputError, match="nothing to invert"):
            synthesize(zoo, settings, seed=0)
        return
    data = synthesize(zoo, settings, seed=0, out=tmp_path)
    check(data)
    again = synthesize(zoo, settings, seed=0)
    assert torch.equal(data.images, again.images)
    assert torch.equal(ImageSet.load(tmp_path).images, data.images)
    assert sha256_of_tensors(teacher.module.state_dict()) == before
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in teacher.module.modules()]
    assert not any(hooks)


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_serves_a_zoo_of_all_families(name: str) -> None:
    zoo = Zoo([tiny_teacher(network) for network in NETWORKS])
    check(synthesize(zoo, recipe(name, **small(name)), seed=0))


@pytest.mark.parametrize("name", ["mixmix", "zeroq", "deepinversion"])
def test_backbones_without_label_head(name: str) -> None:
    model = nn.Sequential(*list(tiny_network("plain"))[:-1])
    backbone = Model(model, tiny_spec("plain", num_classes=0))
    check(synthesize(Zoo([backbone]), recipe(name, **SMALL), seed=0), num_classes=0)
    both = Zoo([backbone, tiny_teacher("residual")])
    check(synthesize(both, recipe(name, **SMALL), seed=0))


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(channels, 3, 1), *tiny_network("plain"))
    spec = tiny_spec(
        "plain", input_shape=[channels, 16, 16], mean=[0.5] * channels, std=[0.2] * channels
    )
    data = synthesize(Zoo([Model(model, spec)]), recipe("mixmix", **SMALL), seed=0)
    check(data, channels=channels)


def test_members_of_different_resolution() -> None:
    smaller = Model(tiny_network("residual"), tiny_spec("residual", input_shape=[3, 12, 10]))
    zoo = Zoo([smaller, tiny_teacher("plain")])
    check(synthesize(zoo, recipe("mixmix", **SMALL), seed=0))
