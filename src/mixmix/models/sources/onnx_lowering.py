"""Rewrites new ONNX graphs for onnx2torch, which supports opset 17.

The official version converter stops at the first operation without an older form. Most operations
differ in notation only, which is rewritten here; callers verify the outputs of the result.
"""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from mixmix.runtimes.onnx_nodes import constant

__all__ = ["lowered"]

_OPSET = 17


def lowered(model: ir.Model) -> onnx.ModelProto:
    """An equivalent model of opset 17 or lower.

    - ``Gelu`` is replaced by its definition.
    - Constants and aliases of weights become weights; the converter makes no layer of a BatchNorm
      with aliases.
    - Axes of reductions become attributes, as up to opset 17.
    - Attributes that the converter does not know are removed: numbers of equal parts, and the
      meaning of empty sizes, which images do not have.
    """
    proto = onnx.inliner.inline_selected_functions(
        ir.to_proto(model), [("", "Gelu")], inline_schema_functions=True
    )
    model = ir.from_proto(proto)
    # Constants in the definition of Gelu.
    fold_constants(model, should_fold=lambda node: node.op_type in ("CastLike", "Sqrt"))
    common.IdentityEliminationPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in model.graph:
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum":
            _fix_axes(node)
        elif node.op_type == "Reshape":
            node.attributes.pop("allowzero", None)
        elif node.op_type == "Split":
            node.attributes.pop("num_outputs", None)
    model.opset_imports[""] = min(model.opset_imports.get("", _OPSET), _OPSET)
    return ir.to_proto(model)


def _fix_axes(node: ir.Node) -> None:
    """Turn constant axes of a reduction into an attribute."""
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is not None:
        node.resize_inputs(1)
        node.attributes.pop("noop_with_empty_axes", None)
        node.attributes["axes"] = ir.AttrInt64s("axes", axes.tolist())
