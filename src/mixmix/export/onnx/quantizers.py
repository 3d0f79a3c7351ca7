"""Quantizers around the layers of an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from mixmix.graph.ops import onnx_names
from mixmix.runtimes.onnx_nodes import constant, producer

__all__ = ["integer_type", "path_to_quantizer", "source_of"]

# ONNX Runtime moves a DequantizeLinear from before these operators to behind them.
_SWAPPED = onnx_names(lambda kind: kind.swapped)
_NARROWING = onnx_names(lambda kind: kind.narrows)


def source_of(node: ir.Node) -> ir.Node | None:
    """The node that computes the first input, skipping nodes that move values."""
    source = producer(node, 0)
    while source is not None and source.op_type in _SWAPPED:
        source = producer(source, 0)
    return source


def integer_type(node: ir.Node | None) -> np.dtype[Any] | None:
    """The integer type of a quantizer or dequantizer; None for other nodes."""
    if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    weights_or_zero_point = (constant(value) for value in (node.inputs[0], *node.inputs[2:]))
    return next((array.dtype for array in weights_or_zero_point if array is not None), None)


def path_to_quantizer(layer: ir.Node) -> list[ir.Node]:
    """A layer's ReLU or clamp, if any, and its quantizer, without other consumers; else empty."""
    path: list[ir.Node] = []
    value = layer.outputs[0]
    while len(value.uses()) == 1 and not value.is_graph_output():
        ((node, _),) = value.uses()
        path.append(node)
        if node.op_type == "QuantizeLinear":
            return path
        if node.op_type not in _NARROWING:
            break
        value = node.outputs[0]
    return []
