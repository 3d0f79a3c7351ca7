"""Settings side by side: loss, size and latency, estimated or measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mixmix import Quantize, load, load_evaluation_pack
from mixmix.cli.main import run
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.data.images import as_image_set
from mixmix.report.search import search_rows, sweep_rows, sweep_svg
from mixmix.search import sweep

BASE = Quantize(views=0, reconstruction=ReconstructionSettings(iterations=0))


@pytest.mark.parametrize("measured", [False, True])
def test_each_setting_has_its_file_and_its_loss(tmp_path: Path, measured: bool) -> None:
    model = load("bundled:mobilenetv2")
    tensor, labels = load_evaluation_pack().tensors
    images, held_out = as_image_set(tensor[:32], model).split(16)
    data = (tensor[32:64], labels[32:64]) if measured else None
    rows = sweep(model, images, held_out, ["W2A8", "W2A8"], tmp_path, data=data, base=BASE)
    assert [row.setting for row in rows] == ["float", "W2A8"]
    sizes = [row.size_bytes for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes == [row.file.stat().st_size for row in rows]
    assert rows[0].loss == 0
    assert [row.loss for row in rows] == sorted(row.loss or 0 for row in rows)
    facts = {"model": "net", "measured": measured, "rows": [row.to_dict() for row in rows]}
    assert json.loads(json.dumps(facts)) == facts
    svg = sweep_svg(facts)
    assert svg is not None and svg.count(">W2A8<") == 2
    assert [row["at most"] == "" for row in sweep_rows(facts)] == [measured] * 2


def test_rows_of_a_search_say_which_file_was_chosen() -> None:
    shared = {"latency_ms": None, "predicted_drop": 0.2}
    steps = [
        {"setting": "W8A8", "size_bytes": 900, "upper_bound": 0.6, "within": True, **shared},
        {"setting": "W4A8", "size_bytes": 500, "upper_bound": 0.9, "within": True, **shared},
        {"setting": "W2A8", "size_bytes": 300, "upper_bound": 7.0, "within": False, **shared},
    ]
    rows = search_rows({"setting": "W4A8", "size_bytes": 500, "search": steps})
    assert [row["limits"] for row in rows] == ["met", "chosen", "not met"]
    assert "latency" not in rows[0] and rows[2]["at most"] == "7.0"
    assert search_rows({"setting": "W8A8"}) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("sweep bundled:resnet --settings W8A8,W1A8", "bits must"),
        ("sweep bundled:resnet --images absent", "absent"),
        ("sweep bundled:resnet --images absent -n 8", "leave them out, or --images"),
        ("compress bundled:resnet -o x.onnx --aim speed", "max_loss"),
        ("compress bundled:resnet -o x.onnx --max-loss 1 --prune 0.3", "got prune-channels and"),
        ("compress bundled:resnet -o x.pt2 --max-loss 1", "writes an .onnx file"),
    ],
)
def test_what_does_not_fit_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mixmix", *options.split()])
    with pytest.raises(SystemExit) as end:
        run()
    printed = capsys.readouterr().err.strip()
    assert end.value.code == 2 and "\n" not in printed and message in printed, printed
