"""What options of ``mixmix quantize`` do to the file that it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_networks import tiny_images

from mixmix.cli.main import run

MODEL = """
import torch
from torch import nn

def build():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
        model = nn.Sequential(*layers, *head)
        model[2].weight.data.add_(0.2)  # so that a zero point is worth it
        return model
"""
SPEC = {
    "name": "small",
    "source": "python:options_model:build",
    "input_shape": [3, 16, 16],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "num_classes": 4,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "options_model.py").write_text(MODEL)
    (tmp_path / "small.json").write_text(json.dumps(SPEC))
    tiny_images(40).save(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("options_model", None)
    return tmp_path


def quantized(monkeypatch: pytest.MonkeyPatch, *options: str) -> list[tuple[str, np.ndarray, int]]:
    """For each layer, the type of its weights, its scales, and how many zero points are not 0."""
    command = "mixmix quantize -m small.json --data images --bits W4A4 --iterations 0 --out q.onnx"
    monkeypatch.setattr(sys, "argv", [*command.split(), *options, "--json"])
    try:
        run()
    except SystemExit as end:
        assert not end.code
    graph = onnx.load("q.onnx").graph
    arrays = {each.name: each for each in graph.initializer}
    found = []
    for node in graph.node:
        weight = arrays.get(node.input[0])
        if node.op_type != "DequantizeLinear" or weight is None or len(weight.dims) < 2:
            continue
        zeros = arrays.get(node.input[2]) if len(node.input) > 2 else None
        count = 0 if zeros is None else int(np.count_nonzero(numpy_helper.to_array(zeros)))
        kind = onnx.TensorProto.DataType.Name(weight.data_type)
        found.append((kind, numpy_helper.to_array(arrays[node.input[1]]).ravel(), count))
    return found


def test_held_out_images_are_the_last_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quantized(monkeypatch, "--held-out", "8")
    assert json.loads(capsys.readouterr().out)["estimate"]["num_images"] == 8


def test_options_reach_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = quantized(monkeypatch)
    assert [kind in ("INT8", "UINT8") for kind, _, _ in plain] == [True, False, True]
    assert all(len(set(scales.tolist())) > 1 for _, scales, _ in plain)
    assert plain[1][2] == 0
    other = quantized(monkeypatch, "--all-layers", "--per-tensor", "--affine-weights")
    assert [kind for kind, _, _ in other] == ["INT4"] * 3
    assert all(len(set(scales.tolist())) == 1 for _, scales, _ in other)
    assert other[1][2] > 0
