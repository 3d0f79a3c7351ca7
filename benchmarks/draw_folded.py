"""Draw the table of a record of ``folded.py`` into a Markdown file, between its two marks.

``python benchmarks/draw_folded.py benchmarks/records/DATE_folded/result.json
benchmarks/records/DATE_folded/README.md``
"""

from __future__ import annotations

from statistics import mean
from typing import Any

from draw_table import draw_into_document, table

Row = dict[str, Any]
_SOURCES = ("noise", "labels", "photographs", "procedural", "mixmix", "real", "unfolded")


def draw(record: Row) -> str:
    """For each network and setting: the points lost with images of each source."""
    rows = record["rows"]
    floats = {row["model"]: row["top1"] for row in rows if row["setting"] == "float"}
    cells: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if row["setting"] != "float":
            key = (row["setting"], row["model"], row["images"])
            cells.setdefault(key, []).append(row["top1"] - floats[row["model"]])
    groups = sorted({key[:2] for key in cells})
    lines = [
        [model, f"{floats[model]:.2f}", setting]
        + [_lost(cells.get((setting, model, source))) for source in _SOURCES]
        for setting, model in groups
    ]
    seconds = [
        f"{source} {mean(found):.0f}"
        for source in _SOURCES
        if (found := [row["synthesis_cpu_seconds"] for row in rows if row["images"] == source])
    ]
    return "\n\n".join(
        [
            table(" | ".join(["network", "float", "setting", *_SOURCES]), lines),
            f"CPU-seconds of the images, at first use: {', '.join(seconds)}.",
        ]
    )


def _lost(found: list[float] | None) -> str:
    """Mean difference over seeds, and their range."""
    if not found:
        return "–"
    if len(found) == 1:
        return f"{found[0]:+.2f} (1)"
    return f"{mean(found):+.2f} ({min(found):+.2f} to {max(found):+.2f}; {len(found)})"


if __name__ == "__main__":
    draw_into_document(__doc__, draw)
