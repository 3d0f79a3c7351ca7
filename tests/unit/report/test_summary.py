"""The summary of a command fits a screen and says what to do about losses."""

from __future__ import annotations

from typing import Any

import pytest

from mixmix.report.summary import summary_lines


def layer(bits: int | None = 8, **changes: Any) -> dict[str, Any]:
    plain = {"action": "quantized", "weight_bits": bits, "activation_bits": bits, "sparsity": None}
    return plain | changes


def facts(drop: float = 0.5, **changes: Any) -> dict[str, dict[str, Any]]:
    export = {
        "model": "net",
        "teacher": "net",
        "setting": "W8A8",
        "sparsity": 0.5,
        "size_bytes": 11_800_000,
        "macs": 1_800_000_000,
        "latency_ms": 14.0,
        "before": {"size_bytes": 46_800_000, "macs": 1_800_000_000, "latency_ms": 35.0},
        "estimate": {
            "predicted_drop": drop,
            "upper_bound": 9.5,
            "predicted_drop_interval": [0.0, drop + 3],
            "num_images": 64,
        },
        "layers": [layer(), layer(None, action="skipped"), layer(None, action="folded")],
    }
    return {"images": {"num_images": 128, "networks": ["net"]}, "export": export | changes}


def text(content: dict[str, dict[str, Any]]) -> str:
    return " ".join(" ".join(summary_lines(content, ["a.onnx"], "mixmix x")).split())


def test_it_says_what_was_done_and_what_it_cost() -> None:
    found = text(facts())
    for part in (
        "net: W8A8, with 128 images made from net, of which 64 are held out",
        "W8A8 in 1 layer; 1 layer not quantized",
        "46.80 MB -> 11.80 MB (0.25x)",
        "1.8 G multiplications for an image, as before",
        "35.0 ms -> 14.0 ms in ONNX Runtime (1 image, 1 thread), 2.5x faster",
        "about 0.5 points of accuracy (95% interval 0.0 to 3.5, at most 9.5;",
        "files a.onnx next mixmix x",
    ):
        assert part in found
    assert "warning" not in found


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"layers": [layer(4)]}, "use more bits (--bits W8A8), or use photographs"),
        ({"macs": 10}, "prune less, or use photographs"),
        ({"layers": [layer(sparsity=0.9)]}, "prune less, or use photographs"),
        ({}, "points; use photographs (--data)"),
    ],
)
def test_a_large_loss_is_a_warning_with_what_to_do(changes: dict[str, Any], advice: str) -> None:
    found = text(facts(5.1, **changes))
    assert "warning the loss is above 5 points; " in found and advice in found


def test_it_explains_why_few_bits_are_not_faster() -> None:
    slow = {"latency_ms": 35.5}
    assert "fewer than 8 bits in floats" in text(facts(layers=[layer(4)], **slow))
    assert "no faster on this machine" in text(facts(**slow))
    assert "faster" not in text(facts(latency_ms=None))


def test_it_has_at_most_twelve_lines_of_eighty_columns() -> None:
    layers = [layer(bits) for bits in (2, 3, 4, 5, 6, 7, 8)] * 3 + [layer(None, action="skipped")]
    long = facts(9.0, layers=layers, macs=10, setting="W4A4 and more " * 20)
    lines = summary_lines(long, [f"{'folder/' * 9}{name}" for name in "abcdef"], "mixmix evaluate")
    assert len(lines) <= 12 and lines[-1].startswith("next")
    assert all(len(line) <= 80 for line in lines)
    assert summary_lines({}, [], "") == []


def test_files_that_do_not_fit_are_counted() -> None:
    files = [f"{'folder/' * 9}{name}" for name in "abcdef"]
    lines = summary_lines(facts(), files, "mixmix evaluate")
    assert f"files {files[0]}, and 5 beside it next" in " ".join(" ".join(lines).split())


def test_a_search_says_what_was_asked_and_keeps_the_files() -> None:
    limits = {"max_loss": 1.0, "max_size": "500kB", "aim": "speed"}
    changes = {"limits": limits, "search": [{}, {}], "latency_ms": 40.0, "layers": [layer(4)]}
    found = text(facts(**changes))
    assert "asked fastest file that loses at most 1, at most 500kB; 2 tried" in found
    assert "files a.onnx next mixmix x" in found
