"""The end of a command: what was done, what it cost, which files there are, what comes next."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mixmix._display import counted, printable
from mixmix.report.rows import format_latency, format_size

__all__ = ["LARGE_LOSS", "summary_lines", "summary_rows"]

Facts = Mapping[str, Any]

# Percentage points of estimated loss from which a warning is printed.
LARGE_LOSS = 5.0
_WIDTH, _MOST_LINES, _INDENT = 80, 12, 9
# Times below this fraction of the float network's are called faster.
_FASTER = 0.95


def summary_lines(facts: Mapping[str, Facts], files: Sequence[str], command: str) -> list[str]:
    """At most twelve lines of 80 columns, of which only names of files may be longer.

    Args:
        facts: of a run, by section: ``images`` and ``export``.
        files: that the run wrote.
        command: to type next; empty for none.
    """
    export = facts.get("export", {})
    before = export.get("before") or {}
    rows = summary_rows(facts) | {"files": ", ".join(files), "next": command}
    if len(_lines(rows)) > _MOST_LINES and export.get("macs") == before.get("macs"):
        rows |= {"MACs": ""}
    if len(_lines(rows)) > _MOST_LINES and len(files) > 1:
        rows |= {"files": f"{files[0]}, and {len(files) - 1} beside it"}
    lines = _lines(rows)
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], lines[-1]]


def summary_rows(facts: Mapping[str, Facts]) -> dict[str, str]:
    """What a run did and what it cost, by name; empty where there is nothing to say."""
    export, images = facts.get("export", {}), facts.get("images", {})
    return {
        "done": _done(export, images),
        "asked": _asked(export),
        "got": _got(export),
        "size": _size(export),
        "MACs": _macs(export),
        "latency": _latency(export),
        "loss": _loss(export),
        "warning": _warning(export),
    }


def _lines(rows: Mapping[str, str]) -> list[str]:
    return [line for name, text in rows.items() if text for line in _wrapped(name, text)]


def _wrapped(name: str, text: str) -> list[str]:
    head = f"{name:{_INDENT}}"
    return textwrap.wrap(
        head + printable(text) if name != "next" else head + text,
        _WIDTH,
        subsequent_indent=" " * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _done(export: Facts, images: Facts) -> str:
    count = images.get("num_images")
    source = counted(count, "image") if isinstance(count, int) else ""
    if source and (networks := images.get("networks")):
        source += f" made from {', '.join(networks)}"
    if not export.get("model"):
        agreement = images.get("label_agreement")
        shown = "" if agreement is None else f", {agreement:.0%} predicted as labeled"
        return source + shown
    if "setting" not in export:
        return f"{export['model']} in floats"
    held_out = (export.get("estimate") or {}).get("num_images")
    if source and held_out:
        source += f", of which {held_out} {'is' if held_out == 1 else 'are'} held out"
    name = (
        export["model"]
        if export["model"] == export["teacher"]
        else (f"{export['model']}, taught by {export['teacher']}")
    )
    return f"{name}: {export['setting']}" + f", with {source}" * bool(source)


def _asked(export: Facts) -> str:
    """The limits of a search, and how many files it has tried."""
    limits = export.get("limits")
    if not limits:
        return ""
    asked = []
    if limits["max_loss"] is not None:
        best = "fastest" if limits["aim"] == "speed" else "smallest"
        asked += [f"{best} file that loses at most {limits['max_loss']:g}"]
    if limits["max_size"] is not None:
        asked += [f"at most {limits['max_size']}"]
    return f"{', '.join(asked)}; {len(export['search'])} tried (see --layers)"


def _got(export: Facts) -> str:
    """The layers by their bits, and what pruning left."""
    layers, before = export.get("layers", ()), export.get("before")
    if before is None or not layers:
        return ""
    counts = Counter(_kind(layer) for layer in layers if layer["action"] not in ("folded", "added"))
    quantized = {kind: count for kind, count in counts.items() if kind.startswith("W")}
    parts = [f"{kind} in {counted(count, 'layer')}" for kind, count in quantized.items()]
    if quantized and counts["float"]:
        parts.append(f"{counted(counts['float'], 'layer')} not quantized")
    if export["macs"] < before["macs"]:
        parts.append(f"{export['macs'] / before['macs']:.1%} of the multiplications")
    if any(layer["sparsity"] for layer in layers):
        parts.append(f"{export['sparsity']:.1%} of the weights are zero")
    return "; ".join(parts)


def _kind(layer: Facts) -> str:
    if layer["weight_bits"] is None:
        return "float"
    return f"W{layer['weight_bits']}A{layer['activation_bits'] or 'float'}"


def _size(export: Facts) -> str:
    after, before = export.get("size_bytes"), (export.get("before") or {}).get("size_bytes")
    if after is None:
        return ""
    if not before:
        return format_size(after)
    return f"{format_size(before)} -> {format_size(after)} ({after / before:.2f}x)"


def _macs(export: Facts) -> str:
    after, before = export.get("macs"), (export.get("before") or {}).get("macs")
    if after is None or before is None:
        return ""
    if after == before:
        return f"{_count(after)} multiplications for an image, as before (pruning lowers them)"
    return f"{_count(before)} -> {_count(after)} multiplications for an image"


def _count(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _latency(export: Facts) -> str:
    after, before = export.get("latency_ms"), (export.get("before") or {}).get("latency_ms")
    if not after or not before:
        return ""
    text = f"{format_latency(before)} -> {format_latency(after)}"
    text += " in ONNX Runtime (1 image, 1 thread)"
    if after <= _FASTER * before:
        return f"{text}, {before / after:.1f}x faster"
    bits = [layer["weight_bits"] or 8 for layer in export["layers"]]
    bits += [layer["activation_bits"] or 8 for layer in export["layers"]]
    if min(bits, default=8) < 8:
        return (
            f"{text}: no faster, since ONNX Runtime computes with fewer than 8 bits in floats; "
            "W8A8 or --optimize-for speed is faster"
        )
    return f"{text}: no faster on this machine"


def _loss(export: Facts) -> str:
    estimate = export.get("estimate")
    if not estimate:
        return ""
    low, high = estimate["predicted_drop_interval"]
    high = min(high, estimate["upper_bound"])
    return (
        f"about {estimate['predicted_drop']:.1f} points of accuracy (95% interval {low:.1f} to "
        f"{high:.1f}, at most {estimate['upper_bound']:.1f}; estimated on "
        f"{counted(estimate['num_images'], 'held-out image')})"
    )


def _warning(export: Facts) -> str:
    estimate = export.get("estimate")
    if not estimate or estimate["predicted_drop"] <= LARGE_LOSS:
        return ""
    bits = [b for layer in export["layers"] if (b := layer["weight_bits"]) is not None]
    advice = []
    if min(bits, default=8) < 8:
        advice.append("use more bits (--bits W8A8)")
    if export["macs"] < export["before"]["macs"] or any(
        layer["sparsity"] for layer in export["layers"]
    ):
        advice.append("prune less")
    advice.append("use photographs (--data) or more images (--num-images)")
    return f"the loss is above {LARGE_LOSS:g} points; {', or '.join(advice)}"
