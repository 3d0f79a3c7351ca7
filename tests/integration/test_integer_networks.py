"""Whole networks in integer kernels, with each construct that stands between layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from tiny_networks import (
    INPUT_SHAPE,
    NUM_CLASSES,
    SqueezeExcitation,
    shuffled,
    tiny_images,
    tiny_spec,
)
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import Compressed, Quantize, compress, export
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.export.profile import kernel_profile
from mixmix.models.model import normalize
from mixmix.runtimes.session import OnnxSession

DATA = tiny_images(40)
# What is left of floats where everything has an integer kernel: images in, logits out.
ENDS = Counter({"QuantizeLinear": 1, "Sub": 1})


def conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels))


class Block(nn.Module):
    """Sums, concatenations and pools, as residual, dense and Inception networks have them."""

    def __init__(self, kind: str, activation: nn.Module) -> None:
        super().__init__()
        self.kind, self.activation = kind, activation
        self.first, self.second = conv(8, 8), conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        first = self.activation(self.first(x))
        second = self.second(first)
        if self.kind == "residual":
            return self.activation(second + x)
        if self.kind == "pooled-residual":
            return self.activation(second + F.avg_pool2d(x, 3, stride=1, padding=1))
        if self.kind == "concat":
            joined = torch.cat([x, first, self.activation(second)], dim=1)
            return joined[:, 8:16] + joined[:, 16:]
        assert self.kind == "plain"
        return second


def network(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(
        conv(3, 8, 2),
        nn.ReLU(),
        *parts,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.Dropout(),
        nn.Linear(8, NUM_CLASSES),
    )


class MeanOverPlaces(nn.Module):
    """The head of networks that pool by ``mean``, and gates behind linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 8, 2), nn.ReLU())
        self.gate, self.head = nn.Linear(8, 8), nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        out: Tensor = self.head(x.mean([2, 3]))
        return out


# The operators that run in float beside conversions, where there are any.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], frozenset[str]]] = {
    "residual": (lambda: network(Block("residual", nn.ReLU())), frozenset()),
    "pooled-residual": (lambda: network(Block("pooled-residual", nn.ReLU6())), frozenset()),
    "concat": (lambda: network(Block("concat", nn.ReLU())), frozenset()),
    "shuffle": (shuffled, frozenset()),
    "excitation": (lambda: network(SqueezeExcitation(8), conv(8, 8)), frozenset()),
    "silu": (lambda: network(Block("residual", nn.SiLU())), frozenset()),
    "hard-swish": (
        lambda: network(Block("plain", nn.Hardswish()), nn.Hardswish()),
        frozenset({"HardSwish", "HardSigmoid", "Mul"}),
    ),
    "mean": (MeanOverPlaces, frozenset()),
}


@cache
def quantized(name: str, bits: str) -> Compressed:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[name][0]().train()
        with torch.no_grad():
            for _ in range(8):
                model(torch.randn(16, *INPUT_SHAPE))
    method = Quantize(bits, reconstruction=ReconstructionSettings(iterations=0))
    return compress((model.eval(), tiny_spec("plain")), DATA, method, seed=0)


def exported(name: str, bits: str, path: Path) -> Compressed:
    model = quantized(name, bits)
    artifact = export(model, path, probe=DATA.images, optimize_for="speed")
    assert artifact.agreement >= 97
    return model


@pytest.mark.parametrize("bits", ["W8A8", "W4A8", "W4A4", "W2A3"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_run_as_integers(name: str, bits: str, tmp_path: Path) -> None:
    exported(name, bits, tmp_path / "m.onnx")
    found = kernel_profile(tmp_path / "m.onnx", runs=1)
    assert found.integer_mac_fraction == 1 and found.layers
    floats = Counter(node.kind for node in found.nodes if not node.is_integer)
    if not NETWORKS[name][1]:
        assert floats == ENDS
    assert set(floats) <= {"DequantizeLinear", *ENDS, *NETWORKS[name][1]}


@pytest.mark.parametrize("bits", ["W8A8", "W4A4"])
@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_computes_the_same(name: str, bits: str, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = exported(name, bits, tmp_path / "m.onnx")
    images = normalize(DATA.images, model.spec)
    compiled = openvino.compile_model(openvino.Core().read_model(tmp_path / "m.onnx"), "CPU")
    got = torch.from_numpy(compiled(images.numpy())[0])
    wanted = OnnxSession(tmp_path / "m.onnx").run(images)
    centered = wanted - wanted.mean(1, keepdim=True)
    assert (got - wanted).norm() < 0.1 * centered.norm()
