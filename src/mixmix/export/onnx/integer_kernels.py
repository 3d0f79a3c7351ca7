"""Writing a graph as ONNX Runtime's integer kernels need it, without changing the function.

ONNX Runtime makes an integer kernel of an operator between ``DequantizeLinear`` and
``QuantizeLinear``, if it has one for that operator and finds them right beside it. What PyTorch's
exporter writes is often the same function in operators that it has none for, or with others in
between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from mixmix.export.onnx.quantizers import integer_type, path_to_quantizer
from mixmix.graph.ops import onnx_names
from mixmix.runtimes.onnx_nodes import add_constant, constant, producer, replace_node

__all__ = ["join_quantizers", "pool_globally", "prepare_linear_layers", "repeat_quantizers"]

# They give values that they take, and zeros.
_MOVING = onnx_names(lambda kind: kind.moves)


def pool_globally(graph: ir.Graph) -> None:
    """Write means over height and width as ``GlobalAveragePool``."""
    for mean in graph:
        if mean.op_type != "ReduceMean" or not _is_over_height_and_width(mean):
            continue
        tape = ir.tape.Tape()
        pooled = tape.op("GlobalAveragePool", mean.inputs[:1])
        if not mean.attributes.get_int("keepdims", 1):
            users = mean.outputs[0].consumers()
            if [user.op_type for user in users] == ["QuantizeLinear"]:
                # An integer kernel pools only where the quantizer is right behind.
                pooled = _quantized(tape, pooled, users[0].inputs[1:])
            pooled = tape.op("Flatten", [pooled])
        replace_node(mean, tape, pooled)


def _is_over_height_and_width(mean: ir.Node) -> bool:
    (x, *rest) = mean.inputs
    axes = constant(rest[0]) if rest else None
    if x is None or x.shape is None or x.shape.rank() != 4 or axes is None:
        return False
    return sorted(axis % 4 for axis in axes.ravel().tolist()) == [2, 3]


def repeat_quantizers(graph: ir.Graph) -> None:
    """Quantize values once more behind operators that move them.

    Nothing changes, for they are whole steps already. ONNX Runtime does so itself only for some of
    these operators.
    """
    for node in graph:
        source = producer(node, 0) if node.op_type in _MOVING else None
        if source is None or source.op_type != "DequantizeLinear" or _is_constant(source):
            continue
        tape = ir.tape.Tape()
        for output in node.outputs:
            uses = tuple(output.uses())
            if uses and not output.is_graph_output():
                again = _quantized(tape, output, source.inputs[1:])
                for user, index in uses:
                    user.replace_input_with(index, again)
        node.append(tape.nodes)


def _is_constant(dequantizer: ir.Node) -> bool:
    return constant(dequantizer.inputs[0]) is not None


def join_quantizers(graph: ir.Graph) -> None:
    """Put an operator that does nothing between a dequantizer and another quantizer behind it.

    From 8 bits to 8 bits, ONNX Runtime makes a table of ``LeakyRelu``.
    """
    for node in graph:
        source = producer(node, 0) if node.op_type == "QuantizeLinear" else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        if source.inputs[1:] != node.inputs[1:]:
            identity = ir.node("LeakyRelu", node.inputs[:1], {"alpha": 1.0})
            node.prepend(identity)
            node.replace_input_with(0, identity.outputs[0])


def prepare_linear_layers(graph: ir.Graph) -> None:
    """Give 8-bit linear layers what ONNX Runtime (1.32) needs to run them as integers.

    That is zero points of weights, even where they are zero, and where no quantizer is behind a
    layer, no bias in floats. It is then subtracted behind the layer, negated, since what is added
    there becomes a bias again.
    """
    for layer in graph:
        weight = producer(layer, 1) if layer.op_type == "Gemm" else None
        if (
            weight is None
            or integer_type(producer(layer, 0)) != np.uint8
            or integer_type(weight) not in (np.int8, np.uint8)
        ):
            continue
        if len(weight.inputs) < 3:
            _add_zero_point(graph, weight)
        if len(layer.inputs) > 2 and not path_to_quantizer(layer):
            _move_bias(graph, layer)


def _add_zero_point(graph: ir.Graph, weight: ir.Node) -> None:
    integers, scale = constant(weight.inputs[0]), constant(weight.inputs[1])
    assert integers is not None and scale is not None
    name, zeros = f"{weight.outputs[0].name}_zero_point", np.zeros(scale.shape, integers.dtype)
    weight.resize_inputs(3)
    weight.replace_input_with(2, add_constant(graph, name, zeros))


def _move_bias(graph: ir.Graph, layer: ir.Node) -> None:
    """Subtract the negated bias of a layer behind it."""
    value = layer.inputs[2]
    bias = constant(value)
    if value is None or bias is None:
        return
    negated = add_constant(graph, f"{value.name}_negated", -bias)
    tape = ir.tape.Tape()
    product = tape.op("Gemm", layer.inputs[:2], layer.attributes)
    replace_node(layer, tape, tape.op("Sub", [product, negated]))


def _quantized(tape: ir.tape.Tape, value: ir.Value, grid: Sequence[ir.Value | None]) -> ir.Value:
    """A value rounded to a grid: its scale and zero point."""
    integers = tape.op("QuantizeLinear", [value, *grid])
    return tape.op("DequantizeLinear", [integers, *grid])
