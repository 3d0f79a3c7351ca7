"""Draw the tables of a record of ``speed.py`` into a Markdown file, between its two marks.

``python benchmarks/draw_speed.py benchmarks/records/DATE_speed/result.json
benchmarks/records/DATE_speed/README.md``
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from draw_table import draw_into_document, table

Row = dict[str, Any]


def draw(record: Row) -> str:
    """All tables of the parts that the record has, each with its machine and command."""
    parts = {"a": iteration_table, "b": accuracy_table, "c": growth_table, "d": rebuild_table}
    blocks = []
    for part, draw_part in parts.items():
        rows = [row for row in record["rows"] if row["part"] == part]
        if rows:
            run = record["runs"][part]
            machine = f"{run['machine']['cores']} cores ({run['machine']['cpu']})"
            quick = " (a quick try, not a result)" if any(row.get("quick") for row in rows) else ""
            about = f"`{run['command']}`, {run['date']}, on {machine}{quick}."
            blocks.append(f"{draw_part(rows)}\n\n{about}")
    return "\n\n".join(blocks)


def iteration_table(rows: Sequence[Row]) -> str:
    return table(
        "network | image-iterations/s | plain loop | ratio (range) | GFLOP/s | share of peak | n",
        (
            (
                row["model"],
                row["image_iterations_per_second"],
                row["plain_image_iterations_per_second"],
                f"{row['ratio_to_plain_loop']:.2f} "
                f"({row['ratio_low']:.2f}–{row['ratio_high']:.2f})",
                f"{row['gflops']} of {row['peak_gflops']}",
                f"{row['share_of_matmul_peak']:.0%} (plain "
                f"{row['plain_share_of_matmul_peak']:.0%})",
                row["n"],
            )
            for row in rows
            if row["n"]
        ),
    )


def accuracy_table(rows: Sequence[Row]) -> str:
    """Mean and range over the seeds."""
    curve = [row for row in rows if row.get("curve")]
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        if not row.get("curve"):
            key = (row["images"], row["num_images"], row["setting"])
            groups.setdefault(key, []).append(row)
    text = table(
        "images | n | setting | top-1 % (range) | CPU-seconds | × mixmix | wall seconds | seeds",
        (
            (
                *key,
                _mean_and_range([row["top1"] for row in group]),
                f"{statistics.mean(row['synthesis_cpu_seconds'] for row in group):.0f}",
                _mean_ratio(group),
                f"{statistics.mean(row['wall_seconds'] for row in group):.0f}",
                len(group),
            )
            for key, group in groups.items()
        ),
    )
    if not curve:
        return text
    points = table(
        "images | iterations | setting | top-1 % on training images | CPU-seconds",
        (
            (
                row["images"],
                row["iterations"],
                row["setting"],
                f"{row['top1']:.2f}",
                f"{row['synthesis_cpu_seconds']:.0f}",
            )
            for row in curve
        ),
    )
    return f"{text}\n\n{points}"


def growth_table(rows: Sequence[Row]) -> str:
    return table(
        "against | values | time exponent | CPU exponent | memory exponent",
        (
            (
                row["against"],
                ", ".join(map(str, row["values"])),
                row["time_exponent"],
                row["cpu_exponent"],
                row["memory_exponent"],
            )
            for row in rows
            if row.get("summary")
        ),
    )


def rebuild_table(rows: Sequence[Row]) -> str:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        if row["model"] != "demo":
            groups.setdefault(row["iterations"], []).append(row)
    text = table(
        "iterations a unit | top-1 % (range) | CPU-seconds | wall seconds | seeds",
        (
            (
                f"{count} (default)" if group[0]["default"] else count,
                _mean_and_range([row["top1"] for row in group]),
                f"{statistics.median(row['cpu_seconds'] for row in group):.0f}",
                f"{statistics.median(row['wall_seconds'] for row in group):.0f}",
                len(group),
            )
            for count, group in groups.items()
        ),
    )
    demos = [
        f"`mixmix demo`: {row['wall_seconds']:.0f} s of wall time, {row['cpu_seconds']:.0f} "
        "CPU-seconds."
        for row in rows
        if row["model"] == "demo"
    ]
    return "\n\n".join([text, *demos])


def _mean_ratio(group: Sequence[Row]) -> str:
    ratios = [row["cpu_ratio_to_mixmix"] for row in group if "cpu_ratio_to_mixmix" in row]
    return f"{statistics.mean(ratios):.2f}" if ratios else "–"


def _mean_and_range(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    draw_into_document(__doc__, draw)
