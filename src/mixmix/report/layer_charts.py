"""Bits, errors and outputs of layers as SVG elements in the colors of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mixmix._display import shorten
from mixmix.report.curves import ACCENT, INK, drawing

__all__ = ["bits_svg", "errors_svg"]

Layer = Mapping[str, Any]

# Of more layers, names do not fit below the axis.
_MOST_NAMES, _NAME_WIDTH = 40, 24
_NUM_HISTOGRAMS, _COLUMNS = 6, 3
_BITS = (0, 2, 4, 8)


def bits_svg(layers: Sequence[Layer]) -> str | None:
    """Bits of weights and of inputs, and the error of each layer's unit if it is known.

    Args:
        layers: records (``LayerRecord.to_dict``); only quantized layers are drawn.

    Returns:
        An ``<svg>`` element, or None if no layer is quantized.
    """
    quantized = [each for each in layers if each["weight_bits"] is not None]
    if not quantized:
        return None
    errors = [each["error"] for each in quantized]
    has_errors = any(error is not None and error > 0 for error in errors)

    def draw(figure: Any) -> None:
        axes = figure.subplots(1 + has_errors, 1, sharex=True, squeeze=False)[:, 0]
        places = range(len(quantized))
        inputs = [each["activation_bits"] or math.nan for each in quantized]
        axes[0].bar(places, [each["weight_bits"] for each in quantized], color=ACCENT, alpha=0.5)
        axes[0].plot(places, inputs, "_", color=INK, markersize=7)
        axes[0].set_yticks(_BITS)
        axes[0].set_title("bits of weights (bars) and inputs (lines)")
        if has_errors:
            decibels = [-10 * math.log10(error) if error else math.nan for error in errors]
            axes[1].plot(places, decibels, "o", color=ACCENT, markersize=4)
            axes[1].set_title("signal to noise of the layer's unit in dB, higher is better")
        _name_layers(axes, [each["name"] for each in quantized])

    return drawing((9.0, 2.2 * (1 + has_errors) + 0.8), draw)


def errors_svg(errors: Mapping[str, Any]) -> str:
    """Signal to noise by layer, and outputs before and after of the layers that cost most.

    Args:
        errors: of ``LayerErrors.to_dict``.
    """
    layers: Sequence[Layer] = errors["layers"]
    shown = _noisiest(errors)
    rows = math.ceil(len(shown) / _COLUMNS)

    def draw(figure: Any) -> None:
        grid = figure.add_gridspec(1 + rows, _COLUMNS, height_ratios=[1.5] + [1] * rows)
        axes = figure.add_subplot(grid[0, :])
        for name, marker in (("snr_db", "-"), ("alone_snr_db", "o")):
            values = [math.nan if each[name] is None else each[name] for each in layers]
            color = INK if name == "snr_db" else ACCENT
            axes.plot(range(len(layers)), values, marker, color=color, markersize=4, linewidth=1)
        axes.set_title(
            "signal to noise in dB: of the layer's outputs (line), of the network's if this layer "
            "alone is quantized (points)"
        )
        _name_layers([axes], [each["name"] for each in layers])
        for position, layer in enumerate(shown):
            place = grid[1 + position // _COLUMNS, position % _COLUMNS]
            _draw_histogram(figure.add_subplot(place), layer)

    return drawing((9.0, 3.6 + 1.7 * rows), draw)


def _noisiest(errors: Mapping[str, Any]) -> list[Layer]:
    """Layers whose outputs are drawn: those that cost most, then those with the most noise."""
    layers = [each for each in errors["layers"] if each["counts"]]
    costly = list(errors["costly"])

    def order(layer: Layer) -> tuple[int, float]:
        is_costly = layer["name"] in costly
        return costly.index(layer["name"]) if is_costly else len(costly), layer["snr_db"]

    return sorted(layers, key=order)[:_NUM_HISTOGRAMS]


def _draw_histogram(axes: Any, layer: Layer) -> None:
    """Numbers of outputs in bins, in the original (filled) and in the model (line)."""
    low, high = layer["bins"]
    width = (high - low) / len(layer["counts"]) or 1.0
    edges = [low + width * number for number in range(len(layer["counts"]) + 1)]
    axes.stairs(layer["counts"], edges, fill=True, color=INK, alpha=0.2)
    axes.stairs(layer["own_counts"], edges, color=ACCENT, linewidth=1.2)
    axes.set_yscale("symlog")
    axes.set_yticks([])
    axes.set_title(shorten(layer["name"], _NAME_WIDTH), parse_math=False)


def _name_layers(axes: Sequence[Any], names: Sequence[str]) -> None:
    for each in axes:
        each.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        each.set_xlim(-0.7, len(names) - 0.3)
    if len(names) > _MOST_NAMES:
        axes[-1].set_xlabel("layers in order of execution")
        return
    texts = [shorten(name, _NAME_WIDTH) for name in names]
    axes[-1].set_xticks(range(len(names)), texts, rotation=90, fontsize=7, parse_math=False)
