"""ONNX graphs of today as onnx2torch reads them.

The converter knows operations up to opset 17, and the official version converter stops at the first
operation without an older form. Most differ only in how they are written down, so that they are
rewritten here; whoever converts the graph has to compare what it gives.
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
    """A model of opset 17 at most that computes the same.

    - ``Gelu`` becomes its definition.
    - Constants, and second names of weights, become weights: of a BatchNorm whose values are shared
      under a second name, the converter makes no layer.
    - Axes of reductions become attributes, as they were up to opset 17.
    - Attributes go that the converter does not know: numbers of equal parts, and what sizes of zero
      mean, which images do not have.
    """
    proto = onnx.inliner.inline_selected_functions(
        ir.to_proto(model), [("", "Gelu")], inline_schema_functions=True
    )
    model = ir.from_proto(proto)
    # What the definition makes of its own constants.
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
    """Make constant axes of a reduction an attribute."""
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is not None:
        node.resize_inputs(1)
        node.attributes.pop("noop_with_empty_axes", None)
        node.attributes["axes"] = ir.AttrInt64s("axes", axes.tolist())
