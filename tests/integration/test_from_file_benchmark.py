"""``benchmarks/from_file.py``: a row of one tool, what failed, and the table of both."""

import sys

import pytest
import torch
from torch import nn

from mixmix.runtimes.float_onnx import float_onnx_bytes

pytestmark = pytest.mark.usefixtures("importable_benchmarks")


@pytest.fixture
def rows(tmp_path):
    from from_file import Cell, Network, row_of

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = Network(tmp_path / "net.onnx", (0.5,) * 3, (0.25,) * 3)
    module = nn.Sequential(*layers, nn.Linear(8, 10))
    network.file.write_bytes(float_onnx_bytes(module, (3, 32, 32), name="net"))
    test = (torch.rand(20, 3, 32, 32), torch.arange(20) % 10)
    cells = [Cell("net", setting, "onnxruntime", "uniform", 0) for setting in ("W8A8", "W1A1")]
    return [row_of(cell, network, test, tmp_path, sys.executable) for cell in cells]


def test_a_row_has_results_and_costs_or_the_error(rows):
    quantized, failed = rows
    assert quantized["agreement"] >= 80
    assert 0 <= quantized["kl_divergence"] < 0.01
    assert quantized["size_bytes"] > 0 and quantized["cpu_seconds"] > 0
    assert failed["error"] == "KeyError: 'W1A1'"
    assert "top1" not in failed


def test_what_failed_is_in_the_table(rows):
    from draw_from_file import draw

    untouched = {
        "model": "net",
        "setting": "float",
        "tool": "float",
        "images": "float",
        "top1": 9.0,
    }
    drawn = draw({"rows": [untouched | {"num_test": 20, "size_bytes": 1000}, *rows]})
    assert "| net | 9.0 | W1A1 | onnxruntime | – | – | fails | – |" in drawn
    assert drawn.count("net | W") == 1  # its costs, of the file that was written
