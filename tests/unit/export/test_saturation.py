"""Weights are signed exactly where kernels without VNNI lose nothing by it."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from mixmix import Compressed, ModelSpec, export
from mixmix.export.onnx.saturation import saturation_error
from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer


def by_hand(levels: Tensor, weight: Tensor, zero_point: int) -> float:
    """A linear layer's loss, product by product."""
    lost, exact = [], []
    for row in levels.tolist():
        for filters in weight.tolist():
            products = [x * w for x, w in zip(row, filters, strict=True)] + [0] * (len(row) % 2)
            pairs = [a + b for a, b in zip(products[::2], products[1::2], strict=True)]
            lost.append(sum(p - max(-(2**15), min(p, 2**15 - 1)) for p in pairs))
            exact.append(sum((x - zero_point) * w for x, w in zip(row, filters, strict=True)))
    spread = torch.tensor(exact, dtype=torch.float64).std(correction=0)
    return float(torch.tensor(lost, dtype=torch.float64).square().mean().sqrt() / spread)


@pytest.mark.parametrize("inputs", [6, 7])
def test_loss_of_a_linear_layer_is_the_one_by_hand(inputs: int) -> None:
    draws = torch.Generator().manual_seed(0)
    levels = torch.randint(150, 256, (5, inputs), generator=draws).float()
    weight = torch.randint(-128, 128, (4, inputs), generator=draws).to(torch.int8)
    expected = by_hand(levels, weight, 3)
    assert expected > 0
    assert saturation_error(levels, weight, zero_point=3) == pytest.approx(expected, rel=1e-4)


def test_a_pixels_channels_are_the_pairs() -> None:
    levels = torch.full((1, 2, 4, 4), 255.0)
    levels[:, :, 0] = 0
    beside, apart = torch.zeros(2, 1, 2, 3, 3, dtype=torch.int8)
    beside[0, :, 1, 1] = 100  # both channels of one tap: 255 * 200 > 2 ** 15
    apart[0, 0, 1, 1], apart[0, 1, 2, 2] = 100, 100
    options = {"zero_point": 0, "pads": (1, 1, 1, 1)}
    assert saturation_error(levels, beside, **options) > 0.1  # type: ignore[arg-type]
    assert saturation_error(levels, apart, **options) == 0  # type: ignore[arg-type]


def test_groups_are_layers_of_their_own() -> None:
    draws = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (2, 8, 5, 5), generator=draws).float()
    weight = torch.randint(-128, 128, (6, 4, 3, 3), generator=draws).to(torch.int8)
    one = saturation_error(levels[:, :4], weight[:3], zero_point=0, strides=(2, 2))
    both = saturation_error(
        levels[:, :4].repeat(1, 2, 1, 1),
        weight[:3].repeat(2, 1, 1, 1),
        zero_point=0,
        strides=(2, 2),
        groups=2,
    )
    assert both == pytest.approx(one, rel=1e-5) and one > 0


def test_only_layers_that_saturate_keep_unsigned_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = ModelSpec("chain", "module", (4, 8, 8), (0.0,) * 4, (1.0,) * 4, 4)

    def layer(integers: Tensor) -> QuantizedLayer:
        plain = nn.Conv2d(4, 4, 3, padding=1)
        return QuantizedLayer(plain, integers, torch.full((4,), 1e-3), 8)

    signs = torch.randn(4, 4, 3, 3).sign()
    sparse = torch.zeros(4, 4, 3, 3)
    sparse[:, 0] = 127 * signs[:, 0]  # never two in a pair
    quantizer = QuantizedActivation(torch.tensor(1 / 255), torch.tensor(0), 8)
    model = nn.Sequential(
        quantizer, layer(127 * signs), quantizer, layer(sparse), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()  # fmt: skip
    # The same zero point serves both layers in the file until one of them drops it.
    images = torch.rand(32, 4, 8, 8).add(1).div(2)
    artifact = export(Compressed(model, spec), tmp_path / "m.onnx", probe=images)
    weights = [t for t in onnx.load(artifact.path).graph.initializer if len(t.dims) == 4]
    assert [t.data_type for t in weights] == [TensorProto.UINT8, TensorProto.INT8]


@pytest.mark.parametrize(
    ("channels", "filters", "groups", "dtype"),
    [
        (1, 4, 1, TensorProto.UINT8),  # a gray image, whose neighbors are the pairs
        (4, 8, 4, TensorProto.UINT8),
        (4, 4, 4, TensorProto.INT8),  # depthwise, which has kernels of its own
    ],
)
def test_single_channels_are_not_always_depthwise(
    tmp_path: Path, channels: int, filters: int, groups: int, dtype: int
) -> None:
    torch.manual_seed(0)
    spec = ModelSpec("gray", "module", (channels, 8, 8), (0.0,) * channels, (1.0,) * channels, 8)
    plain = nn.Conv2d(channels, filters, 3, padding=1, groups=groups)
    integers = 127 * torch.randn(filters, 1, 3, 3).sign()
    quantized = QuantizedLayer(plain, integers, torch.full((filters,), 1e-3), 8)
    quantizer = QuantizedActivation(torch.tensor(1 / 255), torch.tensor(0), 8)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, 8))
    model = nn.Sequential(quantizer, quantized, head).eval()
    images = torch.rand(32, channels, 8, 8).add(1).div(2)
    artifact = export(Compressed(model, spec), tmp_path / "m.onnx", probe=images)
    (weight,) = (t for t in onnx.load(artifact.path).graph.initializer if len(t.dims) == 4)
    assert weight.data_type == dtype


def test_padding_stands_for_zero() -> None:
    draws = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (2, 4, 3, 3), generator=draws).float()
    weight = torch.randint(-128, 128, (5, 4, 3, 3), generator=draws).to(torch.int8)
    padded = torch.full((2, 4, 6, 5), 200.0)
    padded[:, :, 1:4, 1:4] = levels
    found = saturation_error(levels, weight, zero_point=200, pads=(1, 1, 2, 1))
    assert found == pytest.approx(saturation_error(padded, weight, zero_point=200), rel=1e-6)
    assert found > 0
