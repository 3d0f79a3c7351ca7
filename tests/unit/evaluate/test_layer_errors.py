"""Errors by layer: matched between networks and files of several exporters, and where they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnxruntime.quantization import QuantFormat, quantize_static
from torch import Tensor, nn

from mixmix.compress.compress import compress
from mixmix.compress.method import Compressed
from mixmix.compress.quantize.quantize import Quantize
from mixmix.data.images import as_image_set
from mixmix.data.loaders import calibration_reader
from mixmix.errors import InputError
from mixmix.evaluate.layer_errors import LayerErrors, layer_errors, match_layers
from mixmix.evaluate.layer_outputs import Grid, Layer, plain_name
from mixmix.export import export
from mixmix.models.loading import load
from mixmix.models.model import Model


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.wide = nn.Conv2d(8, 16, 3, stride=2)
        self.mid = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.wide(x))
        x = x + torch.nn.functional.relu6(self.mid(x))
        return self.head(x.mean((2, 3)))


NAMES = ["stem.0", "wide", "mid", "head"]


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.stem[1].running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr,operator]
        net.stem[1].running_var.uniform_(0.05, 0.2)  # type: ignore[union-attr,operator]
    return load(net.eval(), input_shape=(3, 12, 12), mean=0.5, std=0.25, name="net")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(48, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def quantized(model: Model, images: Tensor) -> Compressed:
    method = Quantize("W8A8", views=0, layer_bits={"mid": "W2A8"})
    return compress(model, images, [method])


def check_mid_is_worst(errors: LayerErrors) -> None:
    assert [each.name for each in errors.layers] == NAMES and not errors.unmatched
    assert errors.costly(1)[0].name == "mid"
    found = {each.name: each for each in errors.layers}
    assert found["stem.0"].snr_db > 30 and found["mid"].snr_db < 25
    # Two bits have five levels where they are symmetric.
    assert found["mid"].bits in ("W2A8", "W3A8") and found["wide"].bits == "W8A8"
    assert found["mid"].weight_snr_db is not None and found["mid"].weight_snr_db < 15
    assert found["stem.0"].limits[0] == 0  # behind the ReLU
    assert sum(found["wide"].counts) == sum(found["wide"].own_counts) > 0
    assert "--keep mid=W8A8" in errors.advice()[0]


def test_compressed(model: Model, quantized: Compressed, images: Tensor) -> None:
    errors = layer_errors(quantized, model, images)
    check_mid_is_worst(errors)
    alone = {each.name: each.alone_snr_db for each in errors.layers}
    assert all(value is not None for value in alone.values())
    assert min(alone, key=lambda name: alone[name] or 0) == "mid"


def test_files(model: Model, quantized: Compressed, images: Tensor, tmp_path: Path) -> None:
    small = export(quantized, tmp_path / "small.onnx")
    check_mid_is_worst(layer_errors(small, model, images))
    plain = export(Compressed(model.module, model.spec), tmp_path / "plain.onnx")
    check_mid_is_worst(layer_errors(small.path, plain.path, images))
    same = layer_errors(plain.path, model, images)
    assert min(each.snr_db for each in same.layers) > 90 and same.advice() == []


@pytest.mark.parametrize("format", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_files_of_onnxruntime(
    model: Model, images: Tensor, tmp_path: Path, format: QuantFormat
) -> None:
    plain = export(Compressed(model.module, model.spec), tmp_path / "plain.onnx")
    reader = calibration_reader(as_image_set(images, model), model.spec)
    path = tmp_path / "quantized.onnx"
    quantize_static(plain.path, path, reader, quant_format=format, per_channel=True)
    errors = layer_errors(path, model, images)
    assert [each.name for each in errors.layers] == NAMES
    assert all(each.bits == "W8A8" for each in errors.layers)
    assert all(20 < each.snr_db < 80 for each in errors.layers)


def test_models_without_common_layers(model: Model, images: Tensor) -> None:
    other = nn.Sequential(nn.Conv2d(3, 5, 5), nn.Flatten(), nn.Linear(5 * 64, 9))
    unlike = load(other, input_shape=(3, 12, 12), mean=0.5, std=0.25)
    with pytest.raises(InputError, match="no layers in common; compare a model with its original"):
        layer_errors(unlike, model, images)
    with pytest.raises(InputError, match="layers of net.pt2 are not read"):
        layer_errors("net.pt2", model, images)


def layer(*aliases: str) -> Layer:
    return Layer(aliases[0], aliases, None)


def test_layers_match_by_name_then_by_order() -> None:
    mine, theirs = [layer("a"), layer("b"), layer("x")], [layer("b"), layer("a"), layer("y")]
    shapes = [(1, 4), (1, 4), (1, 8)]
    assert match_layers((mine, theirs), (shapes, shapes)) == [(0, 1), (1, 0), (2, 2)]
    # Other shapes never match, also under the same name.
    assert match_layers((mine[:1], [layer("a")]), ([(1, 4)], [(1, 5)])) == []
    unnamed = [layer("q"), layer("r"), layer("s")]
    found = match_layers((mine[:2], unnamed), ([(1, 2), (1, 3)], [(1, 2), (1, 9), (1, 3)]))
    assert found == [(0, 0), (1, 2)]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("layer1.0.conv1.weight", "layer1.0.conv1"),
        ("layer1.0.conv1.weight_quantized", "layer1.0.conv1"),
        ("/layer1/conv1/Conv", "layer1.conv1"),
        ("/layer1/conv1/Conv_quant", "layer1.conv1"),
        ("fc.weight_DequantizeLinear_Output", "fc"),
        ("onnx::Conv_193_quantized", "onnx::Conv_193"),
    ],
)
def test_plain_names(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_grids_round_and_clamp() -> None:
    grid = Grid(0.5, 2, 0, 3)
    x = torch.tensor([-9.0, -1.0, 0.24, 0.26, 0.5, 9.0])
    assert grid(x).tolist() == [-1.0, -1.0, 0.0, 0.5, 0.5, 0.5] and grid.bits == 2
