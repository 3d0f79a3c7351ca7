"""Sizes and operation counts against numbers done by hand; latencies only in their form."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mixmix.compress.method import Compressed
from mixmix.errors import InputError
from mixmix.export import export
from mixmix.graph.capture import capture
from mixmix.graph.costs import count_layer_macs, count_macs
from mixmix.graph.quantized import QuantizedLayer
from mixmix.models.spec import ModelSpec
from mixmix.runtimes.latency import compare_latency_ms, size_bytes


def test_size_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert size_bytes(path) == 5
    with pytest.raises(InputError, match="cannot read the size of .*absent"):
        size_bytes(tmp_path / "absent")


def test_size_bytes_of_weights_beside_a_file(tmp_path: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.zeros(4096, np.float32), "w")
    graph = onnx.helper.make_graph([], "g", [], [], [weights])
    path = tmp_path / "net.onnx"
    onnx.save(
        onnx.helper.make_model(graph),
        path,
        save_as_external_data=True,
        location="net.data",
        convert_attribute=False,
    )
    beside = (tmp_path / "net.data").stat().st_size
    assert beside >= 4 * 4096 and size_bytes(path) == path.stat().st_size + beside
    (tmp_path / "text.onnx").write_text("12345")
    assert size_bytes(tmp_path / "text.onnx") == 5


@pytest.mark.parametrize(
    ("module", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 8 * 3 * 9 * 10 * 12),
        (nn.Conv2d(3, 8, 3, stride=2), 8 * 3 * 9 * 4 * 5),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 6 * 1 * 9 * 10 * 12),
        (nn.Sequential(nn.Flatten(), nn.Linear(360, 7)), 360 * 7),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), 0),
    ],
)
def test_count_macs(module: nn.Module, macs: int) -> None:
    assert count_macs(module, (3, 10, 12)) == macs


def test_count_macs_leaves_the_module_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    count_macs(model, (3, 4, 4))
    assert model.training
    assert torch.equal(model[1].running_mean, torch.zeros(4))


def test_quantized_layers_count_like_floats() -> None:
    layer = nn.Conv2d(3, 6, 3, groups=3)
    quantized = QuantizedLayer(layer, torch.ones_like(layer.weight), torch.ones(6), 8)
    assert count_macs(quantized, (3, 10, 12)) == count_macs(layer, (3, 10, 12)) > 0


def test_layers_are_counted_by_name_and_as_often_as_they_are_called() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(shared, nn.ReLU(), shared), nn.ReLU())
    expected = {"0": 3 * 4 * 30, "1.0": 2 * 4 * 4 * 9 * 30}
    assert count_layer_macs(model, (3, 5, 6)) == expected
    assert count_layer_macs(capture(model, torch.rand(2, 3, 5, 6)), (3, 5, 6)) == expected


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = ModelSpec("tiny", "module", (3, 6, 8), (0.5,) * 3, (0.5,) * 3, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4)).eval()
    path = tmp_path_factory.mktemp("cost") / "m.onnx"
    return export(Compressed(model, spec), path).path


def test_latencies(onnx_path: Path) -> None:
    (latency_ms,) = compare_latency_ms([onnx_path], batch_size=3, repeats=2, rounds=1).values()
    assert latency_ms > 0
    other = onnx_path.with_name("other.onnx")
    other.write_bytes(onnx_path.read_bytes())
    compared = compare_latency_ms([other, onnx_path], repeats=2, rounds=2)
    assert list(compared) == [str(other), str(onnx_path)]
    assert all(value > 0 for value in compared.values())
    with pytest.raises(InputError, match="quantile"):
        compare_latency_ms([onnx_path], quantile=1.5)


def test_latency_errors(onnx_path: Path) -> None:
    with pytest.raises(InputError, match="no ONNX file at"):
        compare_latency_ms([onnx_path.with_name("absent.onnx")])
    with pytest.raises(InputError, match="must be at least 1, got 1, 0, 5 and 1"):
        compare_latency_ms([onnx_path], repeats=0)
    with pytest.raises(InputError, match="at least one path"):
        compare_latency_ms([])
