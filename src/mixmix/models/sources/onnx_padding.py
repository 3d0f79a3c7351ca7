"""Padding of ONNX graphs in numbers; exporters also name a rule, or the padded axes alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir

from mixmix.runtimes.onnx_nodes import add_constant, constant

__all__ = ["write_out_padding"]

_SAME = ("SAME_UPPER", "SAME_LOWER")


def write_out_padding(proto: onnx.ModelProto, input_shape: Sequence[int]) -> ir.Model:
    """A model with numbers in place of ``auto_pad`` and ``axes``, for images (C, H, W)."""
    model = ir.from_proto(proto)
    if not any(_has_rule(node) or _has_axes(node) for node in model.graph):
        return model
    (image,) = (value for value in model.graph.inputs if not value.is_initializer())
    image.shape = ir.Shape([image.shape[0] if image.shape else None, *input_shape])
    model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
    for node in model.graph:
        if _has_rule(node):
            _fix_rule(node)
        elif _has_axes(node):
            _fix_axes(node)
    return model


def _has_rule(node: ir.Node) -> bool:
    return node.attributes.get_string("auto_pad", "") in _SAME


def _has_axes(node: ir.Node) -> bool:
    return node.op_type == "Pad" and len(node.inputs) > 3


def _fix_rule(node: ir.Node) -> None:
    """Outputs have ceil(size / stride) pixels; the odd one is padded at the end, or the start."""
    value, weight = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    sizes = _sizes(value)[2:]
    kernel = node.attributes.get_ints("kernel_shape", None) or _sizes(weight)[2:]
    if not sizes or len(kernel) != len(sizes) or node.op_type == "ConvTranspose":
        return
    strides = node.attributes.get_ints("strides", [1] * len(sizes))
    dilations = node.attributes.get_ints("dilations", [1] * len(sizes))
    starts, ends = [], []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        covered = (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1
        total = max(covered - size, 0)
        ends.append((total + (node.attributes.get_string("auto_pad") == _SAME[0])) // 2)
        starts.append(total - ends[-1])
    del node.attributes["auto_pad"]
    node.attributes["pads"] = ir.AttrInt64s("pads", [*starts, *ends])


def _fix_axes(node: ir.Node) -> None:
    dims = len(_sizes(node.inputs[0]))
    pads, axes = constant(node.inputs[1]), constant(node.inputs[3])
    if not dims or pads is None or axes is None or node.graph is None:
        return
    every = np.zeros((2, dims), np.int64)
    every[:, axes] = pads.reshape(2, -1)
    node.replace_input_with(1, add_constant(node.graph, f"{node.name}_pads", every.flatten()))
    node.resize_inputs(3 if node.inputs[2] is not None else 2)


def _sizes(value: ir.Value | None) -> list[int]:
    """The sizes of a value; the batch may be unknown, and nothing if another one is."""
    shape = () if value is None or value.shape is None else value.shape
    sizes = [size if isinstance(size, int) else 0 for size in shape]
    return sizes if all(sizes[1:]) else []
