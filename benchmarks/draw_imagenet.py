"""Draw the table of a record of ``imagenet.py`` into a Markdown file, between its two marks.

``python benchmarks/draw_imagenet.py benchmarks/records/DATE_imagenet/result.json
benchmarks/records/DATE_imagenet/README.md``
"""

from __future__ import annotations

from typing import Any

from draw_quantization import how_it_was_made
from draw_table import draw_into_document, table
from scipy.stats import binomtest

from mixmix.evaluate.intervals import wilson_interval

Row = dict[str, Any]
_BASE = "all three"


def draw(record: Row) -> str:
    """For each setting: accuracy and agreement with intervals, and tests against the mixture."""
    floats = next(row for row in record["rows"] if row["setting"] == "float")
    rows = [row for row in record["rows"] if row["setting"] != "float"]
    blocks = [f"Full precision: {_share(floats['top1'], floats['num_test'])}"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        mine = [row for row in rows if row["setting"] == setting]
        base = {row["seed"]: row for row in mine if row["images"] == _BASE}
        lines = [
            [
                row["images"],
                row["num_images"],
                row["seed"],
                _share(row["top1"], row["num_test"]),
                f"{row['top1'] - floats['top1']:+.1f}",
                _share(row["agreement"], row["num_test"]),
                _test(row, base.get(row["seed"])),
                f"{row['synthesis_wall_seconds'] / 60:.0f}",
                f"{row['cpu_seconds'] / 60:.0f}",
                f"{row['size_bytes'] / 1e6:.2f} MB",
            ]
            for row in mine
        ]
        header = (
            "images from | n | seed | top-1 % (95% interval) | to full precision | agreement % | "
            f"only right here : only with {_BASE} (p) | minutes of synthesis | "
            "CPU-minutes of compression | file"
        )
        blocks.append(f"**{setting}**\n\n{table(header, lines)}")
    return "\n\n".join([*blocks, how_it_was_made(record)])


def _share(percent: float, count: int) -> str:
    low, high = wilson_interval(round(percent * count / 100), count)
    return f"{percent:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _test(row: Row, base: Row | None) -> str:
    """McNemar's exact test on the photographs that only one of both gets right."""
    if base is None or base is row:
        return ""
    pairs = list(zip(row["hits"], base["hits"], strict=True))
    here, there = pairs.count(("1", "0")), pairs.count(("0", "1"))
    p = binomtest(here, here + there).pvalue if here + there else 1.0
    return f"{here} : {there} ({p:.2g})"


if __name__ == "__main__":
    draw_into_document(__doc__, draw)
