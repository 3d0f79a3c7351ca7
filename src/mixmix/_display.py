"""Short representations of objects, as text and as tables in notebooks."""

from __future__ import annotations

import difflib
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "counted",
    "did_you_mean",
    "format_value",
    "html_table",
    "percent",
    "printable",
    "shorten",
    "similar_file",
    "summary",
]

_WIDTH = 100
_MAX_ITEMS = 4
_MAX_ROWS = 60
# Names that other libraries have for the same.
_SAME = (
    {"steps", "iterations", "epochs", "iters", "num_steps", "num_iterations"},
    {"lr", "learning_rate"},
    {"batch", "batch_size", "bs"},
    {"count", "n", "num_images", "num_samples"},
)


def summary(title: str, facts: Mapping[str, Any]) -> str:
    """``Title(key=value, ...)``, on several lines if necessary, without None and empty values."""
    pairs = [
        f"{key}={format_value(value)}" for key, value in facts.items() if value not in (None, "")
    ]
    line = f"{title}({', '.join(pairs)})"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{title}(", *(f"  {pair}," for pair in pairs), ")"])


def format_value(value: Any) -> str:
    """A short text: four significant digits, thousands separators, at most four items."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        inner = [format_value(each) for each in value[:_MAX_ITEMS]]
        more = [f"... {len(value) - _MAX_ITEMS} more"] * (len(value) > _MAX_ITEMS)
        return f"({', '.join(inner + more)})"
    return shorten(str(value))


def counted(number: int, noun: str) -> str:
    """``1 image``, or ``1,000 images``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def did_you_mean(names: str | Iterable[str], known: Iterable[str]) -> str:
    """``"; did you mean NAME?"`` if a known name is similar to one of these, else nothing."""
    options = [str(each) for each in known]
    folded = {option.casefold(): option for option in reversed(options)}
    for name in [names] if isinstance(names, str) else names:
        same = {each for words in _SAME if name.casefold() in words for each in words}
        near = [each for each in map(str.casefold, options) if each in same]
        near = near or difflib.get_close_matches(name.casefold(), folded, 1, 0.65)
        if near:
            return f"; did you mean {folded[near[0]]!r}?"
    return ""


def similar_file(path: Path) -> str:
    """``did_you_mean`` of the name of a file, unless it exists."""
    try:
        if path.exists():
            return ""
        return did_you_mean(path.name, (each.name for each in path.parent.iterdir()))
    except OSError:
        return ""


def printable(text: str) -> str:
    """A text from a file on one line, without characters that a terminal would obey."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def shorten(text: str, width: int = 200) -> str:
    """The printable text, with the middle omitted if it is longer than ``width``."""
    text = printable(text)
    if len(text) <= width:
        return text
    half = (width - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def percent(value: float, interval: tuple[float, float] | None = None) -> str:
    """A percentage with its 95% interval, such as ``89.6% (87.6-91.3)``."""
    text = f"{value:.1f}%"
    return text if interval is None else f"{text} ({interval[0]:.1f}-{interval[1]:.1f})"


def html_table(rows: Iterable[Mapping[str, Any]], *, caption: str = "") -> str:
    """An escaped table of at most 60 rows; columns are the keys of the first row."""
    rows = list(rows)
    columns = list(rows[0]) if rows else []
    parts = ["<table>"]
    if caption:
        parts.append(f"<caption>{html.escape(caption)}</caption>")
    parts.append(_row("th", columns))
    parts += [_row("td", [_cell(row.get(name)) for name in columns]) for row in rows[:_MAX_ROWS]]
    if len(rows) > _MAX_ROWS:
        note = f"... {len(rows) - _MAX_ROWS:,} more"
        parts.append(f'<tr><td colspan="{len(columns)}">{note}</td></tr>')
    return "".join([*parts, "</table>"])


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _cell(value: Any) -> str:
    return "–" if value is None or value == "" else format_value(value)
