"""Draw the matrix of a record of ``generalization.py`` into a Markdown file, and as a heat map.

``python benchmarks/draw_generalization.py benchmarks/records/DATE_generalization/result.json
benchmarks/records/DATE_generalization/README.md``

The figure, ``matrix.svg``, is beside the document.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib
from draw_quantization import how_it_was_made, interval
from draw_table import draw_into_document, table
from matplotlib.figure import Figure

Row = dict[str, Any]
_ALL, _WITHOUT = "all", "all but "


def draw(record: Row) -> str:
    """For each setting: what taking part is worth, then all zoos against all networks."""
    blocks = []
    for setting in _settings(record):
        cells = _cells(record, setting)
        blocks.append(f"**{setting}**, top-1 % by taking part\n\n{_taking_part(record, cells)}")
        targets = list(dict.fromkeys(target for _, target in cells))
        lines = [
            [row, *(interval(cells.get((row, target), {}).values()) for target in targets)]
            for row in dict.fromkeys(row for row, _ in cells)
        ]
        header = " | ".join(["images from", *targets])
        blocks.append(f"**{setting}**, all zoos\n\n{table(header, lines)}")
    return "\n\n".join([*blocks, how_it_was_made(record)])


def _taking_part(record: Row, cells: dict[tuple[str, str], dict[int, float]]) -> str:
    """Each network on images of all, itself among them, and on those of the others."""
    floats = {row["model"]: row["top1"] for row in record["rows"] if row["setting"] == "float"}
    lines, losses = [], []
    for target, top1 in floats.items():
        taking, out = (cells.get((row, target), {}) for row in (_ALL, _WITHOUT + target))
        if not taking:
            continue
        loss = [taking[seed] - out[seed] for seed in taking if seed in out]
        losses += loss
        lines.append(
            [
                target,
                f"{top1:.2f}",
                interval(taking.values()),
                interval(out.values()),
                interval(loss, signed=True),
            ]
        )
    if losses:
        lines.append(["mean", "", "", "", f"{statistics.mean(losses):+.2f}"])
    return table("network | in floats | takes part | left out | loses by it", lines)


def draw_matrix(record: Row, path: Path) -> None:
    """Points lost to full precision: rows are zoos, columns networks; a panel for each setting."""
    floats = {row["model"]: row["top1"] for row in record["rows"] if row["setting"] == "float"}
    settings = _settings(record)
    with matplotlib.rc_context({"svg.hashsalt": "mixmix", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8 * len(settings), 9), layout="constrained")
        panels = figure.subplots(1, len(settings), squeeze=False)[0]
        for axes, setting in zip(panels, settings, strict=True):
            cells = _cells(record, setting)
            rows = list(dict.fromkeys(row for row, _ in cells))
            targets = list(dict.fromkeys(target for _, target in cells))
            lost = [
                [
                    floats[target] - statistics.mean(cells[row, target].values())
                    if (row, target) in cells
                    else float("nan")
                    for target in targets
                ]
                for row in rows
            ]
            drawn = axes.imshow(lost, cmap="viridis_r", aspect="auto")
            axes.set_xticks(range(len(targets)), targets, rotation=45, ha="right")
            axes.set_yticks(range(len(rows)), rows)
            for i, line in enumerate(lost):
                for j, value in enumerate(line):
                    if value == value:
                        text = axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
                        text.set_color("white" if drawn.norm(value) > 0.5 else "black")
            axes.set_title(f"{setting}: points below full precision")
            axes.set_xlabel("quantized network")
            axes.set_ylabel("images from")
            figure.colorbar(drawn, ax=axes)
        figure.savefig(path, metadata={"Date": None})


def _settings(record: Row) -> list[str]:
    return list(dict.fromkeys(r["setting"] for r in record["rows"] if r["setting"] != "float"))


def _cells(record: Row, setting: str) -> dict[tuple[str, str], dict[int, float]]:
    """Accuracy by seed, of each zoo and network."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in record["rows"]:
        if row["setting"] == setting:
            found.setdefault((row["images"], row["model"]), {})[row["seed"]] = row["top1"]
    return found


def _draw(record: Row) -> str:
    draw_matrix(record, Path(sys.argv[2]).with_name("matrix.svg"))
    return draw(record)


if __name__ == "__main__":
    draw_into_document(__doc__, _draw)
