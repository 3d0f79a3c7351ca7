"""Errors of layers in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixmix.report.table import print_rows

__all__ = ["error_row", "print_layer_errors"]

_MOST_LAYERS, _NUM_WORST = 40, 15


def print_layer_errors(content: Mapping[str, Any], *, every: bool = True) -> None:
    """Print errors by layer (``LayerErrors.to_dict``) and what to do about them.

    Args:
        content: the errors.
        every: print all layers of networks of up to 40, instead of those with the most noise.
    """
    layers = content["layers"]
    shown = layers
    if not every or len(layers) > _MOST_LAYERS:
        worst = sorted(layers, key=lambda each: float(each["snr_db"]))[:_NUM_WORST]
        shown = [each for each in layers if each in worst]
    title = "layers" if len(shown) == len(layers) else f"the {len(shown)} noisiest layers"
    print(f"\n{title}, signal to noise in dB (20: an error of a tenth, 40: of a hundredth)")
    print_rows([error_row(each, content["costly"]) for each in shown])
    if content["unmatched"]:
        print(f"not in the original: {len(content['unmatched'])} layers")
    for line in content["advice"]:
        print(f"try {line}")


def error_row(layer: Mapping[str, Any], costly: list[str]) -> dict[str, Any]:
    """The row of a layer in a table, in dB."""

    def decibels(name: str) -> float | None:
        return None if layer[name] is None else round(layer[name], 1)

    weight_bits, activation_bits = layer["weight_bits"], layer["activation_bits"]
    text = f"W{weight_bits}" + (f"A{activation_bits}" if activation_bits else "")
    return {
        "layer": layer["name"],
        "bits": text if weight_bits else "float",
        "outputs": decibels("snr_db"),
        "weights": decibels("weight_snr_db"),
        "alone": decibels("alone_snr_db"),
        "costs most": "*" if layer["name"] in costly else "",
    }
