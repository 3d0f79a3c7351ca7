"""Passes over an ONNX graph that leave its function as it is, and ONNX Runtime no floats in it.

ONNX Runtime makes an integer kernel of an operator between ``DequantizeLinear`` and
``QuantizeLinear``, if it has one for that operator and finds them right beside it. What PyTorch's
exporter writes is often the same function in operators that it has none for, or with others in
between.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from mixmix.export.onnx.graph import GraphView, drop_unused, replace_nodes
from mixmix.graph.ops import onnx_names

__all__ = ["join_quantizers", "pool_globally", "prepare_linear_layers", "repeat_quantizers"]

# They give values that they take, and zeros.
_MOVING = onnx_names(lambda kind: kind.moves)


def pool_globally(graph: onnx.GraphProto) -> None:
    """Write means over height and width as ``GlobalAveragePool``."""
    view = GraphView(graph)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in [*graph.value_info, *graph.input]
    }
    nodes = []
    for node in graph.node:
        axes = node.input[1] if node.op_type == "ReduceMean" and len(node.input) > 1 else ""
        if axes not in view.initializers or ranks.get(node.input[0]) != 4:
            nodes.append(node)
            continue
        if sorted(axis % 4 for axis in view.array(axes).tolist()) != [2, 3]:
            nodes.append(node)
            continue
        keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        pooled = node.output[0] if keeps else f"{node.output[0]}_pooled"
        nodes.append(
            onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)
        )
        if keeps:
            continue
        users = view.consumers[node.output[0]]
        if [user.op_type for user in users] == ["QuantizeLinear"]:
            # A kernel of integers pools only where the quantizer is right behind.
            names, grid = (f"{pooled}_integers", f"{pooled}_values"), users[0].input[1:]
            nodes.append(onnx.helper.make_node("QuantizeLinear", [pooled, *grid], names[:1]))
            nodes.append(onnx.helper.make_node("DequantizeLinear", [names[0], *grid], names[1:]))
            pooled = names[1]
        nodes.append(onnx.helper.make_node("Flatten", [pooled], [node.output[0]]))
    replace_nodes(graph, nodes)
    drop_unused(graph)


def repeat_quantizers(graph: onnx.GraphProto) -> None:
    """Quantize values once more behind operators that move them.

    Nothing changes, for they are whole steps already. ONNX Runtime does so itself only for some of
    these operators.
    """
    view = GraphView(graph)
    dequantizers = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] not in view.initializers
    }
    nodes = []
    for node in graph.node:
        nodes.append(node)
        source = dequantizers.get(node.input[0]) if node.op_type in _MOVING else None
        if source is None:
            continue
        for index, output in enumerate(node.output):
            if output in view.outputs or not output:
                continue
            moved, integers = f"{output}_moved", f"{output}_quantized"
            node.output[index] = moved
            grid = source.input[1:]
            nodes.append(onnx.helper.make_node("QuantizeLinear", [moved, *grid], [integers]))
            dequantizer = onnx.helper.make_node("DequantizeLinear", [integers, *grid], [output])
            nodes.append(dequantizer)
            dequantizers[output] = dequantizer
    replace_nodes(graph, nodes)


def join_quantizers(graph: onnx.GraphProto) -> None:
    """Put an operator that does nothing between a dequantizer and another quantizer behind it.

    From 8 bits to 8 bits, ONNX Runtime makes a table of ``LeakyRelu``.
    """
    view = GraphView(graph)
    nodes = []
    for node in graph.node:
        source = view.producers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if (
            source is not None
            and source.op_type == "DequantizeLinear"
            and source.input[1:] != node.input[1:]
        ):
            passed = f"{node.output[0]}_passed"
            nodes.append(onnx.helper.make_node("LeakyRelu", [node.input[0]], [passed], alpha=1.0))
            node.input[0] = passed
        nodes.append(node)
    replace_nodes(graph, nodes)


def prepare_linear_layers(graph: onnx.GraphProto) -> None:
    """Give 8-bit linear layers what ONNX Runtime (1.32) asks for to run them as integers.

    That is zero points of weights, even where they are zero, and where no quantizer is behind a
    layer, no bias in floats. It is then subtracted behind the layer, negated, since what is added
    there becomes a bias again.
    """
    view = GraphView(graph)
    nodes = []
    for node in graph.node:
        nodes.append(node)
        weight = view.producers.get(node.input[1]) if node.op_type == "Gemm" else None
        if (
            weight is None
            or view.storage(view.producers.get(node.input[0])) != TensorProto.UINT8
            or view.storage(weight) not in (TensorProto.INT8, TensorProto.UINT8)
        ):
            continue
        bias = view.initializers.get(node.input[2]) if len(node.input) > 2 else None
        if bias is not None and not view.way_to_quantizer(node):
            negated = numpy_helper.from_array(-view.array(bias.name), f"{bias.name}_negated")
            graph.initializer.append(negated)
            output, product = node.output[0], f"{node.output[0]}_product"
            nodes.append(onnx.helper.make_node("Sub", [product, negated.name], [output]))
            node.output[0] = product
            del node.input[2]
        if len(weight.input) < 3:
            zeros = np.zeros(view.array(weight.input[1]).shape, view.array(weight.input[0]).dtype)
            name = f"{weight.output[0]}_zero_point"
            graph.initializer.append(numpy_helper.from_array(zeros, name))
            weight.input.append(name)
    replace_nodes(graph, nodes)
    drop_unused(graph)
