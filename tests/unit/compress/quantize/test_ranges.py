"""What sets the range of a quantizer, which tensors get one, and what stays an image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_images
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import Compressed, ModelSpec, Quantize, compress, export
from mixmix.compress.quantize.quantizers import search_activation_range
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.errors import InputError
from mixmix.graph.quantized import QuantizedActivation
from mixmix.models.model import normalize

SPEC = ModelSpec("net", "module", INPUT_SHAPE, 0.5, 0.25, NUM_CLASSES)
DATA = tiny_images(40)


class Net(nn.Module):
    """Two convolutions and a head, with something before and between them."""

    def __init__(
        self,
        between: Callable[[Tensor], Tensor] = lambda x: x,
        front: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.front, self.between = front, between
        self.conv, self.next = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(F.relu(self.conv(self.front(x))))
        out: Tensor = self.fc(F.relu(self.next(x)).mean((2, 3)))
        return out


def quantized(net: nn.Module, bits: str = "W8A8", **settings: object) -> Compressed:
    method = Quantize(
        bits,
        views=0,
        reconstruction=ReconstructionSettings(iterations=3, batch_size=8),
        **settings,  # type: ignore[arg-type]
    )
    return compress((net.eval(), SPEC), DATA, method, seed=0)


def error(net: nn.Module, made: Compressed) -> float:
    with torch.no_grad():
        images = normalize(DATA.images, SPEC)
        wanted, got = net(images), made.module(images)
    return float((got - wanted).norm() / (wanted - wanted.mean(0)).norm())


def padded(x: Tensor, value: float) -> Tensor:
    return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=value), 3, 2)


def permuted(x: Tensor) -> Tensor:
    x = F.pad(x, (1, 1, 1, 1), value=-torch.inf).transpose(2, 3)
    return F.max_pool2d(x, 3, 2).transpose(2, 3)


def two_pools(x: Tensor) -> Tensor:
    x = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
    return F.max_pool2d(x, 3, 2) + F.max_pool2d(x, 3, 2)


def filled(x: Tensor) -> Tensor:
    return F.max_pool2d(x.masked_fill(x < 0.05, -1e4), 5, 1, 2).clamp(min=0)


def chosen(x: Tensor) -> Tensor:
    return F.max_pool2d(torch.where(x < 0.05, x.new_full((), -1e4), x), 5, 1, 2).clamp(min=0)


def attended(x: Tensor) -> Tensor:
    tokens = F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)
    scores = tokens @ tokens.transpose(1, 2)
    scores = scores + torch.where(scores > 1, torch.zeros_like(scores), scores.new_full((), -1e4))
    return (scores.softmax(2) @ tokens).transpose(1, 2).reshape(-1, 8, 4, 4)


HIDDEN: dict[str, Callable[[Tensor], Tensor]] = {
    "-inf": partial(padded, value=-torch.inf),
    "-1e4": partial(padded, value=-1e4),
    "finfo.min": partial(padded, value=torch.finfo(torch.float32).min),
    "permuted": permuted,
    "two pools": two_pools,
    "masked_fill": filled,
    "where": chosen,
    "softmax": attended,
}


@pytest.mark.parametrize("bits", ["W8A8", "W4A4"])
@pytest.mark.parametrize("name", HIDDEN)
def test_what_only_a_maximum_or_a_softmax_sees_sets_no_range(name: str, bits: str) -> None:
    net = Net(HIDDEN[name])
    made = quantized(net, bits)
    scales = [float(m.scale) for m in made.module.modules() if isinstance(m, QuantizedActivation)]
    assert max(scales) < 1
    assert error(net, made) < (0.2 if bits == "W8A8" else 1.5)
    assert all(r.error is not None and r.error < 1 for r in made.records if r.action == "quantized")


def test_infinite_activations_are_refused_by_name() -> None:
    class Finite(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nan_to_num(super().forward(x))

    net = Finite(lambda x: torch.log(x - x))
    with pytest.raises(InputError, match=r"output of log.*input of next.*NaN or infinite"):
        quantized(net)


def test_padding_module_with_other_values_is_no_move(tmp_path: Path) -> None:
    net = Net(nn.ConstantPad2d(1, -1.0))
    made = quantized(net)
    assert error(net, made) < 0.1
    for name in ("m.onnx", "m.pt2"):
        assert export(made, tmp_path / name).agreement >= 98


def gated(x: Tensor) -> Tensor:
    return x * (x > 0.3)


def counted(x: Tensor) -> Tensor:
    return x * torch.cat([x > 0.3, x > 0.2], 1)[:, :8] + x.argmax(1, keepdim=True) * 0.01


def coordinates(x: Tensor) -> Tensor:
    rows = torch.arange(x.shape[2]).view(1, 1, -1, 1).expand(x.shape[0], 1, -1, x.shape[3])
    return torch.cat([x[:, :7], rows], 1)


def double(x: Tensor) -> Tensor:
    return (x.double() + x.double()).float()


@pytest.mark.parametrize("between", [gated, counted, coordinates, double])
@pytest.mark.parametrize("bits", ["W8A8", "W4A4"])
def test_only_floats_get_quantizers(
    between: Callable[[Tensor], Tensor], bits: str, tmp_path: Path
) -> None:
    net = Net(between)
    made = quantized(net, bits)
    assert error(net, made) < (0.5 if bits == "W8A8" else 10)
    assert export(made, tmp_path / ("m.onnx" if bits == "W8A8" else "m.pt2")).agreement >= 97


MATRIX = torch.tensor([[0.3, 0.6, 0.1], [-0.2, -0.3, 0.5], [0.6, -0.5, -0.1]])
FRONTS: dict[str, Callable[[Tensor], Tensor]] = {
    "normalization": lambda x: (x - 0.1) / 0.5,
    "BGR": lambda x: x[:, [2, 1, 0]],
    "transform_input": lambda x: torch.cat([x[:, i].unsqueeze(1) * 0.5 - 0.1 for i in range(3)], 1),
    "flip": lambda x: x.flip(3),
    "crop": lambda x: x[:, :, 2:-2, 2:-2],
    "resize": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "BatchNorm": nn.BatchNorm2d(3).eval(),
    "colors": lambda x: torch.einsum("oc,nchw->nohw", MATRIX, x),
    "patches": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2),
    "gamma": lambda x: (0.3 * x.abs() + 0.1) ** 0.5,
}


@pytest.mark.parametrize("front", FRONTS)
def test_what_is_made_of_the_image_alone_keeps_its_bits(front: str) -> None:
    made = quantized(Net(front=FRONTS[front]), "W4A4", first_last_bits=None)
    bits = {r.name: r.activation_bits for r in made.records if r.action == "quantized"}
    assert bits == {"conv": 8, "next": 4, "fc": 4}


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(64),
        torch.full((64,), 5.0),
        torch.full((64,), -5.0),
        -torch.rand(64),
        torch.cat([torch.rand(63), torch.tensor([1e30])]),
    ],
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_ranges_are_finite(values: Tensor, symmetric: bool) -> None:
    scale, zero_point = search_activation_range(values, 8, symmetric=symmetric)
    assert 0 < float(scale) < torch.inf and 0 <= float(zero_point) <= 255
