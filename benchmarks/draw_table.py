"""Draw the rows of a record into a Markdown file, between its two ``results`` marks.

``python benchmarks/draw_table.py benchmarks/records/2026-11-23_demo/result.json README.md``
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mixmix.report.rows import format_rows
from mixmix.runtime.storage import read_json

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def markdown_table(record: dict) -> str:
    lines = [
        "| setting | images | top-1 % (95% interval) | agreement | size | ratio | latency |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in format_rows(record["rows"]):
        cells = (
            row.setting,
            row.images,
            f"{row.top1} ({row.interval})",
            row.agreement,
            row.size,
            row.ratio,
            row.latency,
        )
        lines.append(f"| {' | '.join(cells)} |")
    machine = record["machine"]
    lines += ["", f"`{record['command']}` on {machine['cores']} cores ({machine['cpu']})."]
    return "\n".join(lines)


def table(header: str, rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; columns of the header are separated by ``|``."""
    rule = "|".join("---" for _ in header.split("|"))
    lines = [f"| {header} |", f"|{rule}|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def draw_into_document(description: str | None, draw: Callable[[dict], str]) -> None:
    """Replace what stands between a document's marks; both files come from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("record", type=Path)
    parser.add_argument("document", type=Path)
    arguments = parser.parse_args()
    text = arguments.document.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    drawn = draw(read_json(arguments.record))
    arguments.document.write_text(f"{before}{BEGIN}\n{drawn}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    draw_into_document(__doc__, markdown_table)
