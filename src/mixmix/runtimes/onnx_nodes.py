"""Reading and replacing nodes of ONNX graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["Array", "add_constant", "constant", "producer", "replace_node"]

Array = np.ndarray[Any, np.dtype[Any]]


def constant(value: ir.Value | None) -> Array | None:
    """The array of a constant; None if the value is computed or absent."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """The initializer of this name, created from the array if it does not exist."""
    if name not in graph.initializers:
        graph.register_initializer(ir.val(name, const_value=ir.tensor(array, name=name)))
    return graph.initializers[name]


def replace_node(node: ir.Node, tape: ir.tape.Tape, value: ir.Value) -> None:
    """Replace a node by the nodes on a tape, and its output by ``value``."""
    assert node.graph is not None
    ir.convenience.replace_nodes_and_values(
        node.graph, node, [node], tape.nodes, node.outputs, [value]
    )


def producer(node: ir.Node, index: int) -> ir.Node | None:
    """The node that computes an input; None for constants, graph inputs and absent inputs."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else value.producer()
