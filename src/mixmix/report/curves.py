"""Loss curves as an SVG element in the colors of the report."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mixmix.synthesis.objective import is_mixed

__all__ = ["ACCENT", "INK", "drawing", "loss_curves_svg"]

_TITLES = {
    "bn": "BatchNorm statistics",
    "ce": "Cross-entropy",
    "tv": "Total variation",
    "l2": "Squared pixels",
    "similarity": "Similarity within a class",
}
# Matplotlib does not support CSS: these two are replaced by the colors of the page.
INK, ACCENT = "#010203", "#040506"
_COLUMNS = 3


def loss_curves_svg(
    shards: Sequence[Mapping[str, Any]], *, mixing_fraction: float = 0.0
) -> str | None:
    """Draw one panel per term of the loss: thin lines for the shards, a thick one for their mean.

    Args:
        shards: entries of a manifest; ``losses`` has rows of ``iteration`` and the terms.
        mixing_fraction: fraction of the iterations at which images are mixed, which changes the
            losses; only the more frequent of mixed and other iterations are drawn.

    Returns:
        A self-contained ``<svg>`` element, or None if no shard has losses of at least two
        iterations.
    """
    traces = [_comparable(shard.get("losses") or [], mixing_fraction) for shard in shards]
    traces = [trace for trace in traces if len(trace) > 1]
    terms = list(dict.fromkeys(key for trace in traces for row in trace for key in row))
    terms = [term for term in terms if term != "iteration"]
    if not terms:
        return None
    columns = min(len(terms), _COLUMNS)
    num_rows = math.ceil(len(terms) / columns)

    def draw(figure: Any) -> None:
        for position, term in enumerate(terms, start=1):
            _draw_term(figure.add_subplot(num_rows, columns, position), term, traces)

    return drawing((9.0, 2.5 * num_rows), draw)


def drawing(size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """A self-contained ``<svg>`` element in the style of the report.

    Args:
        size: width and height in inches.
        draw: fills a figure of matplotlib, in ``INK`` and ``ACCENT``.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "mixmix",
        "font.size": 9,
        "axes.linewidth": 0.6,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue())


def _comparable(
    trace: Sequence[Mapping[str, float]], mixing_fraction: float
) -> Sequence[Mapping[str, float]]:
    """The rows of mixed or of other iterations, whichever are more, or all if these are few."""
    trace = [row for row in trace if "iteration" in row]  # generated images have one loss
    parts: dict[bool, list[Mapping[str, float]]] = {False: [], True: []}
    for row in trace:
        parts[is_mixed(int(row["iteration"]), mixing_fraction)].append(row)
    found = max(parts.values(), key=len)
    return found if len(found) > 1 else trace


def _draw_term(axes: Any, term: str, traces: Sequence[Sequence[Mapping[str, float]]]) -> None:
    curves = [{row["iteration"]: row[term] for row in trace if term in row} for trace in traces]
    curves = [curve for curve in curves if curve]
    many = len(curves) > 1
    for curve in curves:
        axes.plot(
            list(curve),
            list(curve.values()),
            color=ACCENT,
            linewidth=0.7 if many else 1.8,
            alpha=0.3 if many else 1.0,
        )
    shared = [i for i in curves[0] if all(i in curve for curve in curves)]
    if many and len(shared) > 1:
        mean = [sum(curve[i] for curve in curves) / len(curves) for i in shared]
        axes.plot(shared, mean, color=ACCENT, linewidth=1.8)
    values = [value for curve in curves for value in curve.values()]
    if min(values) > 0 and max(values) / min(values) > 30:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
    else:
        axes.set_ylim(bottom=min(0, *values))
    axes.set_title(_TITLES.get(term, term), parse_math=False)
    axes.set_xlabel("iteration")
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)


def _inline(document: str) -> str:
    """The ``<svg>`` element without declarations, namespaces, metadata, fonts and fixed size.

    Its ids are those that it refers to, and differ from those of other drawings on a page.
    """
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*; ", "", svg)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    prefix = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(
        r'\sid="([^"]*)"', lambda id: f' id="{prefix}-{id[1]}"' if id[1] in used else "", svg
    )
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return svg.replace(INK, "currentColor").replace(ACCENT, "var(--accent)").strip()
