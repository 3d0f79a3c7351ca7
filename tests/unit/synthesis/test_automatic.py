"""Settings that suit networks: as many images and iterations as their cost allows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixmix import load, recipe
from mixmix.synthesis.automatic import settings_for


def network(width: int, side: int) -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(width, 4),
        )  # fmt: skip
    return load(module, input_shape=(3, side, side), mean=0.5, std=0.25)


def test_small_images_are_made_as_the_recipe_makes_them() -> None:
    assert settings_for(network(4, 16)) == recipe("mixmix")  # type: ignore[arg-type]
    assert settings_for(["bundled:vgg", "bundled:resnet"]) == recipe("mixmix")


def test_of_large_images_fewer_are_made_in_fewer_iterations_the_more_the_network_costs() -> None:
    cheap, dear, dearest = (settings_for(network(width, 128)) for width in (4, 64, 512))  # type: ignore[arg-type]
    assert cheap.num_images == dear.num_images == 128
    assert cheap.batch_size == 64 and cheap.scales == (0.5, 1.0)
    assert cheap.iterations == 100 > dear.iterations > dearest.iterations == 24


@pytest.mark.parametrize(("num_classes", "name"), [(4, "without-batch-norm"), (0, "procedural")])
def test_networks_without_batch_norm_have_their_own_recipe(num_classes: int, name: str) -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    module = nn.Sequential(*layers, *([nn.Linear(4, num_classes)] if num_classes else []))
    small, large = (
        settings_for(
            load(module, input_shape=(3, side, side), mean=0.5, std=0.25, num_classes=num_classes)
        )
        for side in (16, 128)
    )
    assert small == recipe(name)
    assert (large.initial, large.num_images, large.scales) == ("leaves", 128, (1.0,))
    assert large.iterations == recipe(name).iterations
