"""The quantizers around the layers of an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from mixmix.graph.ops import onnx_names
from mixmix.runtimes.onnx_nodes import constant, producer

__all__ = ["integer_type", "path_to_quantizer", "source_of"]

# ONNX Runtime moves a DequantizeLinear from in front of these to behind them.
_SWAPPED = onnx_names(lambda kind: kind.swapped)


def source_of(node: ir.Node) -> ir.Node | None:
    """The node that computes the first input, looking through those that only move values."""
    source = producer(node, 0)
    while source is not None and source.op_type in _SWAPPED:
        source = producer(source, 0)
    return source


def integer_type(node: ir.Node | None) -> np.dtype[Any] | None:
    """The integers that a quantizer gives or a dequantizer takes; None for other nodes."""
    if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    weights_or_zero_point = (constant(value) for value in (node.inputs[0], *node.inputs[2:]))
    return next((array.dtype for array in weights_or_zero_point if array is not None), None)


def path_to_quantizer(layer: ir.Node) -> list[ir.Node]:
    """The nodes behind a layer up to its quantizer, which is the last one.

    Between them there may be activation functions, each with no other consumer; the path is empty
    where there is anything else.
    """
    path: list[ir.Node] = []
    value = layer.outputs[0]
    while len(value.uses()) == 1 and not value.is_graph_output():
        ((node, _),) = value.uses()
        path.append(node)
        if node.op_type == "QuantizeLinear":
            return path
        if node.op_type not in ("Relu", "Clip"):
            break
        value = node.outputs[0]
    return []
