"""Results as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mixmix._display import printable
from mixmix.report.rows import ABSENT, format_rows

_MOST_ITEMS = 12

__all__ = ["print_results", "print_rows", "print_uncut"]


def print_results(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print rows of a record (see ``benchmark_record``), with the float model in bold.

    Top-1 is followed by its 95% interval; the ratio is the size relative to the float model.
    Columns for model and seed appear if there are several, for sparsity if any model is sparse.
    """
    formatted = format_rows(rows)
    several = [
        name for name in ("model", "seed") if len({getattr(row, name) for row in formatted}) > 1
    ]
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in (*several, "setting", "images"):
        table.add_column(name.capitalize(), no_wrap=True)
    pruned = any(row.sparsity != ABSENT for row in formatted)
    titles = ("Top-1", "Agreement", *(["Sparsity"] if pruned else []), "Size", "Ratio", "Latency")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for row in formatted:
        top1 = Text(row.top1)
        if row.interval:
            top1.append(f" ({row.interval})", style="dim")
        names = [Text(printable(getattr(row, name))) for name in (*several, "setting", "images")]
        sparsity = [row.sparsity] if pruned else []
        texts = (row.agreement, *sparsity, row.size, row.ratio, row.latency)
        cells = [Text(text) for text in texts]
        table.add_row(*names, top1, *cells, style="bold" if row.is_float else "")
    print_uncut(table, console)


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows, whose keys are the titles of the columns; None is a dash."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_text(value)) for value in row.values()))
    print_uncut(table, Console())


def _text(value: Any) -> str:
    if value is None or value == "" or (isinstance(value, list | tuple) and not value):
        return ABSENT
    if isinstance(value, list | tuple):
        shown = [_text(each) for each in value[:_MOST_ITEMS]]
        more = f" ... {len(value) - _MOST_ITEMS:,} more" if len(value) > _MOST_ITEMS else ""
        return ", ".join(shown) + more
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def print_uncut(table: Table, console: Console) -> None:
    """Print a table at full width: narrow terminals wrap its lines instead of cutting numbers."""
    narrow, wide = console.width, console.options.update(width=1000)
    console.width = max(narrow, Measurement.get(console, wide, table).maximum)
    try:
        console.print(table)
    finally:
        console.width = narrow
