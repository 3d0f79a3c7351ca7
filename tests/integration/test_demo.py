"""The demo from one end to the other, with settings that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixmix import ImageSet, recipe
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.demo.bundled import bundled_members
from mixmix.demo.demo import run_demo


@pytest.mark.skipif(len(bundled_members()) < 2, reason="fewer than two bundled networks")
@pytest.mark.parametrize("compare", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_demo_writes_everything_it_promises(compare: bool, tmp_path: Path) -> None:
    seen: list[float] = []
    result = run_demo(
        tmp_path,
        seed=0,
        compare=compare,
        settings=recipe("mixmix", num_images=40, batch_size=20, iterations=2),
        reconstruction=ReconstructionSettings(iterations=2, batch_size=8),
        on_progress=lambda what, share: seen.append(share),
    )
    rows = result["rows"]
    assert [(row["setting"], row["images"]) for row in rows] == [
        ("float", "float"),
        *(
            (setting, images)
            for images in ("mixmix", "deepinversion", "noise", "real")[: 4 if compare else 1]
            for setting in ("W8A8", "W4A4", "W2A4")
        ),
    ]
    assert all(row["latency_ms"] > 0 and 0 <= row["top1"] <= 100 for row in rows)
    assert {row["num_images"] for row in rows[1:]} == {40}
    sizes = {row["setting"]: row["size_bytes"] for row in rows}
    assert sizes["W8A8"] < 0.3 * sizes["float"] and sizes["W4A4"] < 0.2 * sizes["float"]
    assert rows[1]["model"] not in rows[1]["zoo"]
    assert rows[1]["agreement"] > 90
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert len(ImageSet.load(tmp_path / "images")) == 40
    assert "<svg" in (tmp_path / "index.html").read_text()
    assert (tmp_path / "contact-sheet.png").exists()
    assert len(list((tmp_path / "models").glob("*.onnx"))) == len(rows)
    assert seen == sorted(seen) and seen[-1] == 1.0
