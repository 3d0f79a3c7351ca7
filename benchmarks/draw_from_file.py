"""Draw the tables of a record of ``from_file.py`` into a Markdown file, between its two marks.

``python benchmarks/draw_from_file.py benchmarks/records/DATE_from_file/result.json
benchmarks/records/DATE_from_file/README.md``
"""

from __future__ import annotations

from statistics import mean
from typing import Any

from draw_table import draw_into_document, table

Row = dict[str, Any]
_IMAGES = ("mixmix", "real", "uniform", "normal")


def draw(record: Row) -> str:
    """For each file and tool: points of top-1, agreement and divergence by images, and costs."""
    most = max(row["num_test"] for row in record["rows"])
    rows = [row for row in record["rows"] if row["num_test"] == most]
    floats = {row["model"]: row for row in rows if row["tool"] == "float"}
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["tool"] != "float":
            groups.setdefault((row["setting"], row["model"], row["tool"]), []).append(row)
    names = sorted(groups, key=lambda name: (name[0][::-1], list(floats).index(name[1])))
    results, costs = [], []
    for setting, model, tool in names:
        found, untouched = groups[setting, model, tool], floats[model]
        title = [model, f"{untouched['top1']:.1f}", setting, tool]
        results.append(title + [_result(found, images, untouched) for images in _IMAGES])
        written = [row for row in found if "size_bytes" in row]
        if written:
            sizes = [row["size_bytes"] / untouched["size_bytes"] for row in written]
            seconds = [_mean(written, "cpu_seconds", images) for images in ("mixmix", "real")]
            costs.append([model, setting, tool, f"{mean(sizes):.3f}", *seconds])
    return "\n\n".join(
        [
            table(" | ".join(["file", "float", "setting", "tool", *_IMAGES]), results),
            table(
                "file | setting | tool | size, of the float file | CPU-s, mixmix images"
                " | CPU-s, real images",
                costs,
            ),
        ]
    )


def _mean(rows: list[Row], key: str, images: str) -> str:
    values = [row[key] for row in rows if row["images"] == images]
    return f"{mean(values):.0f}" if values else "–"


def _result(rows: list[Row], images: str, untouched: Row) -> str:
    """Change of top-1, agreement, thousandths of divergence; (number of seeds)."""
    rows = [row for row in rows if row["images"] == images]
    if not rows:
        return "–"
    done = [row for row in rows if "error" not in row]
    if not done:
        return "fails"
    change = mean(row["top1"] for row in done) - untouched["top1"]
    agreement = mean(row["agreement"] for row in done)
    divergence = 1000 * mean(row["kl_divergence"] for row in done)
    return f"{change:+.2f} · {agreement:.2f} · {divergence:.2f} ({len(done)})"


if __name__ == "__main__":
    draw_into_document(__doc__, draw)
