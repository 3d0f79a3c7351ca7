"""Biases that fit into the 32 bits of integer kernels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mixmix.export.onnx.quantizers import integer_type, source_of
from mixmix.graph.ops import onnx_names
from mixmix.runtimes.onnx_nodes import Array, add_constant, constant, producer

__all__ = ["fit_biases"]

_LAYERS = onnx_names(lambda kind: kind.name in ("conv2d", "linear"))
# In steps of the product of the scales; as much is left for the sum of products.
_LARGEST_BIAS = 2**30


def fit_biases(graph: ir.Graph) -> None:
    """Use larger scales for channels whose bias would overflow in an integer kernel, in place.

    These are channels of weights near zero, as BatchNorm with a factor near zero makes them. Their
    weights are rounded to the larger scale, which changes their sums less than the bias is rounded.
    """
    for layer in graph:
        weight = producer(layer, 1) if layer.op_type in _LAYERS else None
        if weight is None or integer_type(weight) not in (np.int8, np.uint8):
            continue
        bias = constant(layer.inputs[2]) if len(layer.inputs) > 2 else None
        step, scale = _step(layer), constant(weight.inputs[1])
        if bias is None or step is None or scale is None or scale.shape != bias.shape:
            continue
        least = (np.abs(bias.astype(np.float64)) / (_LARGEST_BIAS * step)).astype(np.float32)
        if bool((scale < least).any()):
            _coarsen(graph, weight, scale, np.maximum(scale, least))


def _step(layer: ir.Node) -> Array | None:
    """The one scale of a layer's input; None if it is not quantized so."""
    source = source_of(layer)
    if source is None or integer_type(source) is None:
        return None
    step = constant(source.inputs[1])
    return step if step is not None and step.size == 1 else None


def _coarsen(graph: ir.Graph, weight: ir.Node, scale: Array, larger: Array) -> None:
    """Round the weights of a dequantizer to other scales (O,)."""
    integers = constant(weight.inputs[0])
    zeros = constant(weight.inputs[2]) if len(weight.inputs) > 2 else np.zeros_like(scale)
    assert integers is not None and zeros is not None
    shape = (-1, *[1] * (integers.ndim - 1))
    zero, factor = (each.astype(np.float64).reshape(shape) for each in (zeros, scale / larger))
    rounded = (np.round((integers - zero) * factor) + zero).astype(integers.dtype)
    for index, values in enumerate((rounded, larger)):
        name = f"{weight.outputs[0].name}_fitting_{index}"
        weight.replace_input_with(index, add_constant(graph, name, values))
