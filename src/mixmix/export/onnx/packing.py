"""Packing of weights of 4 and 2 bits into bytes."""

from __future__ import annotations

import onnx_ir as ir

from mixmix.runtimes.onnx_nodes import add_constant, constant

__all__ = ["pack_weights"]


def pack_weights(graph: ir.Graph) -> None:
    """Fold a ``Cast`` of constants to integers of fewer than 8 bits, in place."""
    for cast in graph:
        if cast.op_type != "Cast":
            continue
        integers, to = constant(cast.inputs[0]), ir.DataType(cast.attributes["to"].as_int())
        if integers is not None and to.bitwidth < 8:
            (wide,) = cast.outputs
            packed = add_constant(graph, f"{wide.name}_packed", integers.astype(to.numpy()))
            wide.replace_all_uses_with(packed)
            graph.remove(cast, safe=True)
