"""Draw the tables of a record of ``quantization.py`` into a Markdown file, between its two marks.

``python benchmarks/draw_quantization.py benchmarks/records/DATE_quantization/result.json
benchmarks/records/DATE_quantization/README.md``
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from draw_table import draw_into_document, table

Row = dict[str, Any]

# 97.5% quantiles of Student's t for 1, 2, ... degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def draw(record: Row) -> str:
    """A table for each network and task, sources against settings, and how it was made."""
    rows = record["rows"]
    floats = {row["model"]: row["top1"] for row in rows if row["setting"] == "float"}
    blocks = []
    measured = [row for row in rows if row["setting"] != "float"]
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in measured:
        groups.setdefault((row["model"], row["task"], row["num_images"]), []).append(row)
    for (model, task, num_images), mine in groups.items():
        title = f"**{model}**, {_TASKS[task]}, {num_images} images, {floats[model]:.2f} in floats"
        blocks.append(f"{title}\n\n{sources_by_settings(mine)}")
    return "\n\n".join([*blocks, how_it_was_made(record)])


def how_it_was_made(record: Row) -> str:
    """The commands, the date and the machine of a record of cells."""
    machine = record["machine"]
    commands = ", ".join(f"`{command}`" for command in record["commands"])
    return f"{commands}, {record['date']}, on {machine['cores']} cores ({machine['cpu']})."


_TASKS = {
    "quantize": "post-training quantization",
    "mixed": "mixed precision at the size of these bits for all layers",
    "qat": "quantization-aware training, all layers alike",
}


def sources_by_settings(rows: Sequence[Row]) -> str:
    """A table of accuracies, and by how much ``mixmix`` is ahead with the same seeds."""
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    sources = dict.fromkeys(row["images"] for row in rows)
    header = ["images", *settings, *(f"mixmix ahead, {setting}" for setting in settings)]

    def of(source: str, setting: str) -> dict[int, float]:
        return {
            r["seed"]: r["top1"] for r in rows if (r["images"], r["setting"]) == (source, setting)
        }

    lines = []
    for source in sources:
        accuracies = [interval(of(source, setting).values()) for setting in settings]
        leads = [
            interval(_paired(of("mixmix", setting), of(source, setting)), signed=True)
            for setting in settings
        ]
        lines.append([source, *accuracies, *("" if source == "mixmix" else x for x in leads)])
    return table(" | ".join(header), lines)


def _paired(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def interval(values: Iterable[float], *, signed: bool = False) -> str:
    """Mean, with the 95% interval of Student's t and n where there are several values."""
    found = list(values)
    if not found:
        return "–"
    sign = "+" if signed else ""
    mean = f"{statistics.mean(found):{sign}.2f}"
    if len(found) == 1:
        return mean
    margin = _STUDENT[len(found) - 2] * statistics.stdev(found) / math.sqrt(len(found))
    return f"{mean} ± {margin:.2f} ({len(found)})"


if __name__ == "__main__":
    draw_into_document(__doc__, draw)
