"""Rewrites new ONNX graphs for onnx2torch, which supports opset 17.

The official version converter stops at the first operation without an older form. Most operations
differ in notation only, which is rewritten here; callers verify the outputs of the result.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from mixmix.models.sources.onnx_padding import write_out_padding
from mixmix.runtimes.onnx_nodes import add_constant, constant

__all__ = ["lowered"]

_OPSET = 17
# What older operations become; the converter knows hardly any of theirs.
_OLD = 13


def lowered(model: ir.Model, input_shape: Sequence[int]) -> onnx.ModelProto:
    """An equivalent model of opset 17 or lower, for images (C, H, W).

    - Operations that are too old for the converter become those of opset 13.
    - ``Gelu``, and others that the converter does not know, are replaced by their definitions.
    - Padding is written out in numbers.
    - Constants and aliases of weights become weights; the converter makes no layer of a BatchNorm
      with aliases.
    - Axes of reductions become attributes, as up to opset 17.
    - Attributes that the converter does not know are removed: numbers of equal parts, and the
      meaning of empty sizes, which images do not have.
    """
    proto = ir.to_proto(model)
    version = model.opset_imports.get("", _OPSET)
    if version < _OLD and _unknown(proto, version):
        with suppress(RuntimeError):  # of operations that it cannot convert, either
            proto = onnx.version_converter.convert_version(proto, _OLD)
            version = _OLD
    schemas: list[Any] = [onnx.defs.get_schema(k, version, "") for k in _unknown(proto, version)]
    defined = {"Gelu"} | {schema.name for schema in schemas if schema.has_function}
    proto = onnx.inliner.inline_selected_functions(
        proto, [("", kind) for kind in sorted(defined)], inline_schema_functions=True
    )
    model = write_out_padding(proto, input_shape)
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
        elif node.op_type == "Clip":
            _replace_clip_without_minimum(node)
        elif node.op_type == "Gemm":
            _flatten_bias(node)
    model.opset_imports[""] = min(model.opset_imports.get("", _OPSET), _OPSET)
    return ir.to_proto(model)


def _fix_axes(node: ir.Node) -> None:
    """Turn constant axes of a reduction into an attribute."""
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is not None:
        node.resize_inputs(1)
        node.attributes.pop("noop_with_empty_axes", None)
        node.attributes["axes"] = ir.AttrInt64s("axes", axes.tolist())


def _unknown(model: onnx.ModelProto, version: int) -> set[str]:
    """The operations of a graph that the converter does not know."""
    registry = importlib.import_module("onnx2torch.node_converters.registry")
    unknown = set()
    for kind in {node.op_type for node in model.graph.node}:
        try:
            schema = onnx.defs.get_schema(kind, min(version, _OPSET), "")
            registry.get_converter(kind, schema.since_version)
        except (NotImplementedError, onnx.defs.SchemaError):
            unknown.add(kind)
    return unknown


def _replace_clip_without_minimum(node: ir.Node) -> None:
    """Turn ``Clip`` with a maximum alone into ``Min``."""
    if len(node.inputs) == 3 and node.inputs[1] is None and node.inputs[2] is not None:
        image, _, maximum = node.inputs
        node.op_type = "Min"
        node.resize_inputs(2)
        node.replace_input_with(0, image)
        node.replace_input_with(1, maximum)


def _flatten_bias(node: ir.Node) -> None:
    """Give the bias of a linear layer one axis, which (1, K) has, too."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    array = constant(bias)
    if array is not None and bias is not None and array.ndim == 2 and len(array) == 1:
        assert node.graph is not None
        flat = add_constant(node.graph, f"{bias.name}_flat", array[0])
        node.replace_input_with(2, flat)
