"""Draw the tables of a record of choices into a Markdown file, between its marks.

``python benchmarks/draw_choices.py RECORD/result.json RECORD/README.md``, with a record of
``channel_importance.py`` or ``weight_allocation.py``.
"""

from __future__ import annotations

from typing import Any

from draw_quantization import how_it_was_made
from draw_table import draw_into_document, table

Row = dict[str, Any]


def draw(record: Row) -> str:
    """For each recovery, networks and budgets against what was chosen, and how it was made."""
    blocks = []
    rows = record["rows"]
    for recovery in dict.fromkeys(row["recovery"] for row in rows):
        mine = [row for row in rows if row["recovery"] == recovery]
        cells = {(_target(row), _choice(row)): _measured(row) for row in mine}
        choices = list(dict.fromkeys(_choice(row) for row in mine))
        body = (
            (*target, *(cells.get((target, choice), "–") for choice in choices))
            for target in dict.fromkeys(_target(row) for row in mine)
        )
        header = " | ".join(["network", "setting", "images", *choices])
        left = ", parameters left" if "parameters_ratio" in mine[0] else ""
        blocks.append(f"**{recovery}**: divergence (same class){left}\n\n")
        blocks[-1] += table(header, body)
    return "\n\n".join([*blocks, how_it_was_made(record)])


def _target(row: Row) -> tuple[str, str, str]:
    return row["model"], row["setting"], row["images"]


def _choice(row: Row) -> str:
    if "allocation" in row:
        return f"{row['criterion']}, {row['allocation']}"
    return f"{row['importance']}, at least {row['min_share']:g}"


def _measured(row: Row) -> str:
    text = f"{row['divergence']:.3f} ({row['agreement']:.1f}%)"
    ratio = row.get("parameters_ratio")
    return text if ratio is None else f"{text}, {100 * ratio:.0f}%"


if __name__ == "__main__":
    draw_into_document(__doc__, draw)
