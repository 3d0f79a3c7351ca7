"""Preprocessing and probabilities as nodes of an ONNX file."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mixmix.models.spec import ModelSpec

__all__ = ["with_ends"]

_NORMALIZED = "images_normalized"


def with_ends(content: bytes, spec: ModelSpec, *, layout: str, probabilities: str) -> bytes:
    """A file whose graph normalizes its images, or returns probabilities.

    Args:
        content: of the file, from ``images`` to ``logits``.
        spec: of its network.
        layout: NHWC or NCHW of images as bytes; empty for normalized images.
        probabilities: ``softmax`` or ``sigmoid``; empty for logits.
    """
    model = onnx.load_from_string(content)
    changed: dict[str, str] = {}
    if layout:
        _normalize_first(model.graph, spec, layout)
        changed |= {"input_type": "uint8", "input_layout": layout}
    if probabilities:
        _end_in_probabilities(model.graph, probabilities)
        changed["output"] = probabilities
    for entry in model.metadata_props:
        entry.value = changed.get(entry.key, entry.value)
    return bytes(model.SerializeToString(deterministic=True))


def _normalize_first(graph: onnx.GraphProto, spec: ModelSpec, layout: str) -> None:
    """As ``models.model.normalize`` computes, operation by operation."""
    (images,) = graph.input
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == images.name:
                node.input[index] = _NORMALIZED
    channels, height, width = spec.input_shape
    sizes = (height, width, channels) if layout == "NHWC" else (channels, height, width)
    batch = images.type.tensor_type.shape.dim[0].dim_param or "batch"
    constants = {
        "images_scale": np.float32(255),
        "images_mean": np.array(spec.mean, np.float32).reshape(1, -1, 1, 1),
        "images_std": np.array(spec.std, np.float32).reshape(1, -1, 1, 1),
    }
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Cast", [], {"to": TensorProto.FLOAT}),
        ("Div", ["images_scale"], {}),
        ("Sub", ["images_mean"], {}),
        ("Div", ["images_std"], {}),
    ]
    if layout == "NHWC":
        steps.insert(0, ("Transpose", [], {"perm": [0, 3, 1, 2]}))
    nodes, value = [], images.name
    for index, (kind, others, attributes) in enumerate(steps):
        result = _NORMALIZED if index == len(steps) - 1 else f"images_step_{index}"
        nodes.append(helper.make_node(kind, [value, *others], [result], **attributes))
        value = result
    rest = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes, *rest])
    graph.input.append(
        helper.make_tensor_value_info(images.name, TensorProto.UINT8, [batch, *sizes])
    )


def _end_in_probabilities(graph: onnx.GraphProto, kind: str) -> None:
    (logits,) = graph.output
    result = onnx.ValueInfoProto()
    result.CopyFrom(logits)
    result.name = "probabilities"
    attributes: dict[str, Any] = {"axis": 1} if kind == "softmax" else {}
    node = helper.make_node(kind.capitalize(), [logits.name], [result.name], **attributes)
    graph.node.append(node)
    del graph.output[:]
    graph.output.append(result)
