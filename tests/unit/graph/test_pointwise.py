"""1x1 convolutions whose gradient for the weights some processors get wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_networks import NUM_CLASSES, tiny_images, tiny_network, tiny_spec
from torch import Tensor, nn

from mixmix import (
    Distill,
    FineTune,
    Prune,
    Quantize,
    QuantizeAware,
    ReconstructFeatures,
    TrainingSettings,
    compress,
)
from mixmix.compress.method import Method
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.graph.pointwise import safe_gradients

TRAINING = TrainingSettings(steps=2, batch_size=8)
RECOVERY = (ReconstructFeatures(iterations=3, batch_size=8, views=64), FineTune(TRAINING))
QUANTIZE = Quantize("W4A4", reconstruction=ReconstructionSettings(iterations=3, batch_size=8))


class TwoScales(nn.Module):
    """Begins as RepVGG and MobileOne do: with a strided 1x1 convolution of three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Sequential(nn.Conv2d(3, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8))
        self.large = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        )
        self.classifier = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.small(x) + self.large(x))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def two_scales() -> nn.Module:
    torch.manual_seed(0)
    return TwoScales().eval()


@pytest.mark.parametrize(
    ("in_channels", "options"),
    [
        (3, {"stride": 2}),
        (15, {"stride": (1, 4)}),
        (8, {"stride": 2, "groups": 2}),
        (3, {"stride": 2, "padding": "valid", "bias": False}),
        (3, {"stride": 2, "padding": 1}),
        (3, {"kernel_size": 3, "stride": 2}),
        (3, {}),
    ],
)
def test_gives_what_it_gave_and_the_same_gradients(
    in_channels: int, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(in_channels, 6, **({"kernel_size": 1} | options))
    x = torch.rand(4, in_channels, 9, 10)
    # Contiguous: the order that every processor gets right.
    expected = layer(x)
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, layer.weight, direction)[0]
    layer.to(memory_format=torch.channels_last)
    with safe_gradients(nn.Sequential(layer)):
        found = layer(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected)
        gradient = torch.autograd.grad(found, layer.weight, direction)[0]
        torch.testing.assert_close(gradient, wanted)
    assert "forward" not in vars(layer)


def test_forward_of_a_subclass_stays() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer = Doubled(3, 6, 1, stride=2)
    x = torch.rand(4, 3, 8, 8)
    with safe_gradients(layer), safe_gradients(nn.Sequential(layer)):
        torch.testing.assert_close(layer(x), 2 * nn.Conv2d.forward(layer, x))


@pytest.mark.parametrize(
    "method",
    [Prune(0.5, rounds=1, recovery=RECOVERY), QUANTIZE, QuantizeAware(QUANTIZE, TRAINING)],
    ids=["prune", "quantize", "quantize-aware"],
)
def test_network_that_has_one_can_be_compressed(method: Method) -> None:
    spec = tiny_spec("plain")
    compressed = compress((two_scales(), spec), tiny_images(), method, seed=0)
    with torch.no_grad():
        assert compressed.module(torch.rand(2, *spec.input_shape)).isfinite().all()


def test_network_that_has_one_can_be_a_student() -> None:
    teacher = (tiny_network("plain"), tiny_spec("plain"))
    method = Distill(two_scales(), training=TRAINING)
    compressed = compress(teacher, tiny_images(), method, seed=0)
    assert all(p.isfinite().all() for p in compressed.module.parameters())
