"""Forms in which ONNX files come, brought to one: float32, and images with channels first."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, numpy_helper

from mixmix.runtimes.onnx_nodes import constant

__all__ = ["as_float32", "channels_first"]

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TO_FIRST, _TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
_BY_ELEMENT = ("Add", "Cast", "Div", "Identity", "Mul", "Sub")


def as_float32(model: onnx.ModelProto) -> None:
    """Replace half precision by single precision, in place."""
    graph = model.graph
    constants = [each.t for node in graph.node for each in node.attribute if each.HasField("t")]
    for tensor in (*graph.initializer, *constants):
        if tensor.data_type in _HALF:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _HALF:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _HALF:
                attribute.i = TensorProto.FLOAT


def channels_first(model: ir.Model) -> bool:
    """Let a graph that transposes images (N, H, W, C) take (N, C, H, W), in place; if it does.

    Images may be normalized by values per channel before.
    """
    images = [value for value in model.graph.inputs if not value.is_initializer()]
    shape = images[0].shape if len(images) == 1 else None
    if shape is None or len(shape) != 4:
        return False
    (image,) = images
    transposes = _transposes(image)
    if not transposes:
        return False
    image.shape = ir.Shape([shape[axis] for axis in _TO_FIRST])
    if any(node.inputs[0] is not image for node in transposes):
        users = list(image.uses())
        last = ir.node("Transpose", [image], {"perm": _TO_LAST})
        model.graph.insert_before(users[0].node, last)
        for user in users:
            user.node.replace_input_with(user.idx, last.outputs[0])
        return True
    for node in transposes:
        node.outputs[0].replace_all_uses_with(image)
        model.graph.remove(node, safe=True)
    return True


def _transposes(image: ir.Value) -> list[ir.Node]:
    """The nodes that put the channels of images first; none if images have other uses, too."""
    found = []
    for node in image.consumers():
        others = [each for each in node.inputs if each is not image and each is not None]
        if node.op_type == "Transpose" and list(node.attributes.get_ints("perm", [])) == _TO_FIRST:
            found.append(node)
        elif node.op_type in _BY_ELEMENT and all(constant(each) is not None for each in others):
            further = _transposes(node.outputs[0])
            if not further:
                return []
            found += further
        else:
            return []
    return found
