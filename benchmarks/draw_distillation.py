"""Draw the curves of a record of ``distillation.py``, and their ends into a Markdown file.

``python benchmarks/draw_distillation.py benchmarks/records/DATE_distillation/result.json
benchmarks/records/DATE_distillation/README.md``

The figure, ``curves.svg``, is beside the document.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
from draw_quantization import how_it_was_made
from draw_table import draw_into_document, table
from matplotlib.figure import Figure

Row = dict[str, Any]
Curve = list[tuple[float, float]]


def draw(record: Row) -> str:
    """A table for each teacher and student: sources against CPU-minutes."""
    blocks = []
    for (teacher, student), curves in _pairs(record).items():
        last = max(minutes for curve in curves.values() for minutes, _ in curve)
        marks = [m for m in (5, 10, 15, 20, 30, 60, 90, 120, 180) if m <= last * 1.02]
        rows = [
            [source, *(_text(_at(curve, mark)) for mark in marks), f"{curve[-1][1]:.2f}"]
            for source, curve in curves.items()
        ]
        header = " | ".join(["images", *(f"{mark} CPU-minutes" for mark in marks), "at the end"])
        blocks.append(f"**{student}** under {teacher}\n\n{table(header, rows)}")
    return "\n\n".join([*blocks, how_it_was_made(record)])


def draw_curves(record: Row, path: Path) -> None:
    """Accuracy against CPU-minutes, synthesis included, a panel for each teacher and student."""
    pairs = _pairs(record)
    with matplotlib.rc_context({"svg.hashsalt": "mixmix", "svg.fonttype": "none"}):
        figure = Figure(figsize=(5 * len(pairs), 4), layout="constrained")
        panels = figure.subplots(1, len(pairs), squeeze=False)[0]
        for axes, ((teacher, student), curves) in zip(panels, pairs.items(), strict=True):
            for source, curve in curves.items():
                axes.plot(*zip(*curve, strict=True), marker="o", ms=3, lw=1, label=source)
            axes.set_title(f"{student} under {teacher}")
            axes.set_xlabel("CPU-minutes, synthesis included")
            axes.set_ylabel("top-1 % on the test split")
            axes.legend()
        figure.savefig(path, metadata={"Date": None})


def _pairs(record: Row) -> dict[tuple[str, str], dict[str, Curve]]:
    """By teacher and student: the curve of every source, of the first seed.

    A source that was trained with for several numbers of steps has a curve for each.
    """
    found: dict[tuple[str, str], dict[str, Curve]] = {}
    runs = [row for row in record["rows"] if row["setting"] != "float"]
    first = min(row["seed"] for row in runs)
    runs = [row for row in runs if row["seed"] == first]
    lengths: dict[tuple[str, str, str], set[int]] = {}
    for row in runs:
        lengths.setdefault((row["model"], row["setting"], row["images"]), set()).add(
            row["of_steps"]
        )
    for row in runs:
        name = row["images"]
        if len(lengths[row["model"], row["setting"], name]) > 1:
            name = f"{name}, {row['of_steps']:,} steps"
        curves = found.setdefault((row["model"], row["setting"]), {})
        curves.setdefault(name, []).append((row["cpu_seconds"] / 60, row["top1"]))
    return {
        pair: {source: sorted(curve) for source, curve in curves.items()}
        for pair, curves in found.items()
    }


def _at(curve: Curve, minutes: float) -> float | None:
    """The last point until then."""
    before = [top1 for at, top1 in curve if at <= minutes * 1.02]
    return before[-1] if before else None


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _draw(record: Row) -> str:
    draw_curves(record, Path(sys.argv[2]).with_name("curves.svg"))
    return draw(record)


if __name__ == "__main__":
    draw_into_document(__doc__, _draw)
