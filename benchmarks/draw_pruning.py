"""Draw the tables of a record of ``pruning.py`` into a Markdown file, between its two marks.

``python benchmarks/draw_pruning.py benchmarks/records/DATE_pruning/result.json
benchmarks/records/DATE_pruning/README.md``
"""

from __future__ import annotations

from typing import Any

from draw_quantization import how_it_was_made, sources_by_settings
from draw_table import draw_into_document

Row = dict[str, Any]
# Recoveries whose name does not say what they are.
_WORDS = {"plain": "without mixmix (Torch-Pruning, or the smallest weights; training on logits)"}


def draw(record: Row) -> str:
    """A table for each network and recovery, sources against settings, and how it was made."""
    rows = record["rows"]
    floats = {row["model"]: row["top1"] for row in rows if row["setting"] == "float"}
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        if row["setting"] != "float":
            key = (row["model"], row["recovery"], row["num_images"])
            groups.setdefault(key, []).append(row)
    blocks = []
    for (model, recovery, num_images), mine in groups.items():
        how = _WORDS.get(recovery, recovery)
        title = f"**{model}**, {how}, {num_images} images, {floats[model]:.2f} before"
        blocks.append(f"{title}\n\n{sources_by_settings(mine)}")
    return "\n\n".join([*blocks, how_it_was_made(record)])


if __name__ == "__main__":
    draw_into_document(__doc__, draw)
