"""Weights of two bits in ONNX: four to a byte, the same numbers, and a file that runs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from mixmix import export
from mixmix.compress.method import Compressed
from mixmix.compress.quantize.quantizers import search_weight_grid
from mixmix.export.onnx import translation
from mixmix.export.onnx.two_bits import runs_two_bits, two_bit_weights
from mixmix.graph.quantized import QuantizedLayer
from mixmix.models.spec import ModelSpec


def spec(shape: tuple[int, int, int]) -> ModelSpec:
    return ModelSpec(
        name="tiny", source="module", input_shape=shape, mean=0.5, std=0.25, num_classes=5
    )


def values(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int16)


@pytest.mark.parametrize(
    "rows",
    [
        [[-2, -1, 0, 1], [-1, 0, 1, 2], [-3, -1, 1, 3]],  # the three grids of two bits
        [[0, 0, 0, 0], [-1, 1, 1, -1], [3, 1, 3, 1]],  # and channels that use a part of them
        [[-3, -2, -1, 0], [0, 1, 2, 3], [-3, -3, -3, -3]],  # affine grids
    ],
)
def test_every_grid_of_two_bits_is_stored_exactly(rows: list[list[int]]) -> None:
    scale = torch.tensor([0.1, 0.37, 1.7e-3])
    packed = two_bit_weights(values(*rows), scale, torch.zeros(3, dtype=torch.int16))
    assert packed is not None
    for stored in (packed.integers, packed.zero_point):
        assert int(stored.min()) >= -2 and int(stored.max()) <= 1
    halves = 0 if packed.is_odd is None else packed.is_odd * (packed.scale * 0.5)[:, None]
    weight = (packed.integers - packed.zero_point[:, None]) * packed.scale[:, None] + halves
    assert torch.equal(weight, values(*rows) * scale[:, None])


@pytest.mark.parametrize("row", [[-3, 0, 3, 0], [-4, -1, 0, 1], [0, 1, 5, 7]])
def test_other_levels_are_not(row: list[int]) -> None:
    assert two_bit_weights(values(row), torch.ones(1), torch.zeros(1, dtype=torch.int16)) is None


def quantized(layer: nn.Conv2d | nn.Linear, *, symmetric: bool) -> QuantizedLayer:
    grid = search_weight_grid(layer.weight, 2, symmetric=symmetric)
    integers = grid.integers(grid.nearest(layer.weight))
    zero_point = None if symmetric else grid.zero_point
    return QuantizedLayer(layer, integers, grid.scale, 2, zero_point=zero_point)


def network(*, symmetric: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        quantized(nn.Conv2d(3, 30, 3), symmetric=symmetric),
        nn.ReLU(),
        quantized(nn.Conv2d(30, 30, 3, groups=30, bias=False), symmetric=symmetric),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        quantized(nn.Linear(30, 5), symmetric=symmetric),
    ).eval()


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_file_stores_two_bits_and_computes_the_same(tmp_path: Path, symmetric: bool) -> None:
    if not runs_two_bits():
        pytest.skip("needs an ONNX Runtime with weights of two bits")
    model = network(symmetric=symmetric)
    artifact = export(Compressed(model, spec((3, 9, 9))), tmp_path / "m.onnx")
    assert artifact.logit_error < 1e-5
    file = onnx.load(artifact.path)
    onnx.checker.check_model(file, full_check=True)
    assert [entry.version for entry in file.opset_import] == [25]
    weights = [t for t in file.graph.initializer if np.prod(t.dims) > 30]
    assert {t.data_type for t in weights} == {TensorProto.INT2}
    assert sorted(len(t.raw_data) for t in weights) == [38, 68, 203]  # 150, 270 and 810 weights


def test_a_runtime_without_two_bits_gets_four(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translation, "runs_two_bits", lambda: False)
    artifact = export(Compressed(network(symmetric=True), spec((3, 9, 9))), tmp_path / "m.onnx")
    file = onnx.load(artifact.path)
    assert [entry.version for entry in file.opset_import] == [21]
    assert {t.data_type for t in file.graph.initializer} >= {TensorProto.INT4}


def test_two_bits_make_smaller_files_than_four(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = []
    for bits in (2, 4):
        layer = nn.Linear(256, 256)
        grid = search_weight_grid(layer.weight, bits)
        store = QuantizedLayer(layer, grid.integers(grid.nearest(layer.weight)), grid.scale, bits)
        model = nn.Sequential(nn.Flatten(), store, nn.Linear(256, 5)).eval()
        compressed = Compressed(model, spec((1, 16, 16)))
        sizes.append(export(compressed, tmp_path / f"{bits}.onnx", min_agreement=0).size_bytes)
    assert sizes[0] < 0.65 * sizes[1]
