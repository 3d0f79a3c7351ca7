"""What a search or a sweep has tried, as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixmix.report.curves import ACCENT, INK, drawing
from mixmix.report.rows import format_latency, format_size

__all__ = ["search_rows", "sweep_rows", "sweep_svg"]

# Of a row, what a unit of the axis has, and its label.
_AXES = (("size_bytes", 1e3, "size of the file in kB"), ("latency_ms", 1.0, "latency in ms"))


def search_rows(export: Mapping[str, Any]) -> list[dict[str, str]]:
    """The files that a search has tried, in order; empty without a search.

    Args:
        export: facts of a run on its file.
    """
    steps = export.get("search") or ()
    rows = []
    for step in steps:
        row = {"setting": step["setting"], "size": format_size(step["size_bytes"])}
        if any(each["latency_ms"] for each in steps):
            row["latency"] = format_latency(step["latency_ms"])
        if any(each["upper_bound"] is not None for each in steps):
            row["loss"] = _points(step["predicted_drop"])
            row["at most"] = _points(step["upper_bound"])
        is_chosen = all(step[name] == export[name] for name in ("setting", "size_bytes"))
        row["limits"] = "chosen" if is_chosen else "met" if step["within"] else "not met"
        rows.append(row)
    return rows


def sweep_rows(sweep: Mapping[str, Any]) -> list[dict[str, str]]:
    """The settings of a sweep; losses are in points of accuracy.

    Args:
        sweep: facts of a run on its sweep.
    """
    loss = "loss" if sweep["measured"] else "estimated loss"
    return [
        {
            "setting": row["setting"],
            loss: _points(row["loss"]),
            "at most": _points(row["upper_bound"]),
            "size": format_size(row["size_bytes"]),
            "latency": format_latency(row["latency_ms"]),
        }
        for row in sweep["rows"]
    ]


def sweep_svg(sweep: Mapping[str, Any]) -> str | None:
    """Loss against size and against latency as an ``<svg>`` element; None without losses."""
    rows = [row for row in sweep["rows"] if row["loss"] is not None]
    if not rows:
        return None

    def draw(figure: Any) -> None:
        for position, (name, scale, label) in enumerate(_AXES, start=1):
            axes = figure.add_subplot(1, len(_AXES), position)
            places = [row[name] / scale for row in rows]
            _draw_losses(axes, rows, places)
            axes.set_xlabel(label)

    return drawing((9.0, 3.4), draw)


def _draw_losses(axes: Any, rows: Sequence[Mapping[str, Any]], places: Sequence[float]) -> None:
    """Points at the losses, with lines up to their bounds, and names of the settings."""
    for row, place in zip(rows, places, strict=True):
        if row["upper_bound"] is not None:
            axes.plot([place] * 2, [row["loss"], row["upper_bound"]], color=INK, alpha=0.4)
        axes.plot([place], [row["loss"]], "o", color=ACCENT, markersize=5)
        axes.annotate(row["setting"], (place, row["loss"]), (5, 5), textcoords="offset points")
    axes.set_xlim(0, 1.15 * max(places))
    axes.set_title("points of accuracy lost")
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)


def _points(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
