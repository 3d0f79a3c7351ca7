"""Signed weights for layers whose sums do not saturate."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from mixmix.export.onnx.quantizers import integer_type, source_of
from mixmix.export.onnx.saturation import saturation_error
from mixmix.graph.ops import onnx_names
from mixmix.runtimes.onnx_nodes import Array, constant, producer
from mixmix.runtimes.session import session_with_values

__all__ = ["prefer_signed_weights"]

# A third of the error that rounding a layer's output to 8 bits adds.
_MAX_ERROR = 3e-3
_NUM_IMAGES = 4
_LAYERS = onnx_names(lambda kind: kind.name in ("conv2d", "linear"))


def prefer_signed_weights(model: ir.Model, images: Tensor) -> None:
    """Convert uint8 weights to int8 where kernels without VNNI do not saturate, in place.

    ONNX Runtime's kernels for u8 activations and s8 weights are about twice as fast as those for
    two u8, and OpenVINO has none for two u8. On x86 without VNNI, they add pairs of products in
    signed 16 bits with saturation, which is worst in the first layer, where few inputs are zero.
    The error is computed on the images, in ONNX Runtime's order of sums (channels innermost).

    Args:
        model: whose symmetric 8-bit weights are uint8 with zero point 128.
        images: normalized (N, C, H, W); the first few are used.
    """
    layers = [node for node in model.graph if _has_symmetric_uint8_weights(node)]
    inputs = _values(model, [str(_input(layer, 0).name) for layer in layers], images[:_NUM_IMAGES])
    errors: dict[ir.Value, float] = {}
    for layer in layers:
        dequantizer = producer(layer, 1)
        assert dequantizer is not None
        weight = _input(dequantizer, 0)
        error = _layer_error(layer, weight, inputs[str(_input(layer, 0).name)])
        errors[weight] = max(error, errors.get(weight, 0.0))  # two layers may share weights
    for weight, error in errors.items():
        if error <= _MAX_ERROR:
            for dequantizer in weight.consumers():
                dequantizer.resize_inputs(2)  # no zero point
            weight.const_value, weight.dtype = ir.tensor(_signed(weight)), ir.DataType.INT8


def _has_symmetric_uint8_weights(layer: ir.Node) -> bool:
    """Whether it has weights of uint8 with zero point 128, and activations of uint8."""
    if layer.op_type not in _LAYERS:
        return False
    dequantizer = producer(layer, 1)
    return (
        dequantizer is not None
        and integer_type(dequantizer) == np.uint8
        and integer_type(source_of(layer)) == np.uint8
        and bool(np.all(constant(dequantizer.inputs[2]) == 128))
    )


def _layer_error(layer: ir.Node, weight: ir.Value, inputs: Array) -> float:
    """The saturation error of a convolution or linear layer on its float inputs."""
    quantizer = source_of(layer)
    assert quantizer is not None
    scale, zero_point = (constant(value) for value in quantizer.inputs[1:3])
    assert scale is not None and zero_point is not None
    attributes = {name: attribute.value for name, attribute in layer.attributes.items()}
    return saturation_error(
        torch.from_numpy(inputs / scale).round() + int(zero_point),
        torch.from_numpy(_signed(weight)),
        zero_point=int(zero_point),
        strides=tuple(attributes.get("strides", (1, 1))),
        pads=tuple(attributes.get("pads", (0, 0, 0, 0))),
        dilations=tuple(attributes.get("dilations", (1, 1))),
        groups=attributes.get("group", 1),
    )


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _signed(weight: ir.Value) -> Array:
    integers = constant(weight)
    assert integers is not None
    return (integers.astype(np.int16) - 128).astype(np.int8)


def _values(model: ir.Model, names: list[str], images: Tensor) -> dict[str, Array]:
    """Values of the graph on the images by name, computed in floats."""
    if not names:
        return {}
    names = list(dict.fromkeys(names))
    session = session_with_values(ir.to_proto(model), names)
    return dict(zip(names, session.outputs(images, names), strict=True))
