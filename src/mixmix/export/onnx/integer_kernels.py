"""Rewrites of ONNX graphs, without changing the function, so that integer kernels apply.

ONNX Runtime replaces an operator right between ``DequantizeLinear`` and ``QuantizeLinear`` by an
integer kernel if it has one. PyTorch's exporter often writes the same function in other operators,
or with others in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from mixmix.export.onnx.quantizers import integer_type, path_to_quantizer
from mixmix.graph.ops import onnx_names
from mixmix.runtimes.onnx_nodes import add_constant, constant, producer, replace_node

__all__ = ["join_quantizers", "pool_globally", "prepare_linear_layers", "repeat_quantizers"]

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
                # The integer kernel needs the quantizer right after it.
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
    """Quantize values again behind operators that move them.

    The values do not change. ONNX Runtime itself does this only for some of these operators.
    """
    for node in graph:
        source = producer(node, 0) if _moves(node) else None
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


def _moves(node: ir.Node) -> bool:
    """Whether every output value is an input value or zero; other padding may be off the grid."""
    if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "constant":
        return node.op_type in _MOVING
    padding = node.inputs[2] if len(node.inputs) > 2 else None
    value = constant(padding)
    return padding is None or (value is not None and not value.any())


def _is_constant(dequantizer: ir.Node) -> bool:
    return constant(dequantizer.inputs[0]) is not None


def join_quantizers(graph: ir.Graph) -> None:
    """Insert an identity between a dequantizer and a different quantizer right after it.

    ONNX Runtime replaces the three, with ``LeakyRelu`` as the identity, by a lookup table.
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
    """Write 8-bit linear layers such that ONNX Runtime (1.32) uses integer kernels.

    Weights need zero points, even if they are zero. Without a quantizer behind the layer, there
    must be no float bias: its negative is subtracted, since an addition becomes a bias again.
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
    """Replace the bias of a layer by a subtraction of its negative."""
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
