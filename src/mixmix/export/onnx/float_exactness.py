"""Protection of float weights and biases from rounding in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mixmix.export.onnx.quantizers import integer_type, path_to_quantizer, source_of
from mixmix.graph.ops import onnx_names
from mixmix.runtimes.onnx_nodes import add_constant, constant, producer, replace_node

__all__ = ["keep_floats_exact"]

_LAYERS = onnx_names(lambda kind: kind.name in ("conv2d", "convolution", "linear"))
_LOWEST = float(np.finfo(np.float32).min)


def keep_floats_exact(graph: ir.Graph) -> None:
    """Break a pattern that ONNX Runtime rewrites incorrectly, in place.

    Between a ``DequantizeLinear`` and a ``QuantizeLinear``, possibly after ``Relu`` or ``Clip``,
    ONNX Runtime (1.32, ``weight_bias_quantization.cc``) rounds the bias of every layer to multiples
    of the product of its scales, and float weights to 8 bits, even without an integer kernel. If
    there is none, ``Max`` and ``Min`` replace ``Relu`` and ``Clip``, which breaks the pattern. If
    there is one, they are removed, since the quantizer clips to the same range; ONNX Runtime itself
    does so only if the limits are exactly equal.
    """
    for layer in graph:
        path = path_to_quantizer(layer) if layer.op_type in _LAYERS else []
        if not path:
            continue
        *functions, quantizer = path
        if _has_integer_kernel(layer, functions, quantizer):
            quantizer.replace_input_with(0, layer.outputs[0])
            graph.remove(functions, safe=True)
        elif functions:
            _write_as_bounds(graph, functions[0])
        else:
            _guard(graph, quantizer)


def _has_integer_kernel(layer: ir.Node, functions: list[ir.Node], quantizer: ir.Node) -> bool:
    """Whether input, weights and output have 8 bits, and only the quantizer clips the output."""
    return (
        integer_type(source_of(layer)) == np.uint8
        and integer_type(producer(layer, 1)) in (np.int8, np.uint8)
        and integer_type(quantizer) == np.uint8
        and all(_is_implied(function, quantizer) for function in functions)
    )


def _is_implied(function: ir.Node, quantizer: ir.Node) -> bool:
    """Whether a uint8 quantizer makes the Relu or Clip before it redundant.

    Limits within half a step of the last level are rounded to it.
    """
    scale, zero_point = (_number(quantizer, index, 0.0) for index in (1, 2))
    low = _number(function, 1, -np.inf) if function.op_type == "Clip" else 0.0
    high = _number(function, 2, np.inf)
    return low < (0.5 - zero_point) * scale and (254.5 - zero_point) * scale < high


def _number(node: ir.Node, index: int, default: float) -> float:
    """A constant input of a node, or the default if absent; NaN if it is computed."""
    value = node.inputs[index] if index < len(node.inputs) else None
    array = constant(value)
    if array is None:
        return default if value is None else np.nan
    return float(array)


def _write_as_bounds(graph: ir.Graph, function: ir.Node) -> None:
    """Replace a Relu or Clip by ``Max`` and ``Min``."""
    limits = function.inputs[1:]
    if function.op_type == "Relu":
        limits = [add_constant(graph, "mixmix_zero", np.array(0, np.float32))]
    tape, value = ir.tape.Tape(), function.inputs[0]
    for bound, limit in zip(("Max", "Min"), limits, strict=False):
        if limit is not None:
            value = tape.op(bound, [value, limit])
    assert value is not None
    replace_node(function, tape, value)


def _guard(graph: ir.Graph, quantizer: ir.Node) -> None:
    """Insert a ``Max`` with the lowest float before a quantizer, which changes no value."""
    lowest = add_constant(graph, "mixmix_lowest", np.array(_LOWEST, np.float32))
    guard = ir.node("Max", [quantizer.inputs[0], lowest])
    quantizer.prepend(guard)
    quantizer.replace_input_with(0, guard.outputs[0])
