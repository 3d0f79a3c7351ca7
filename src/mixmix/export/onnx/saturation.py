"""Choosing signed weights, which are fast everywhere, where they are also right everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from mixmix.export.onnx.graph import GraphView, drop_unused

__all__ = ["prefer_signed_weights", "saturation_error"]

_LARGEST_INT16 = 2**15 - 1
# A third of the share that rounding a layer's output to 8 bits has in it.
_MAX_ERROR = 3e-3
_NUM_IMAGES = 4


def prefer_signed_weights(model: onnx.ModelProto, images: Tensor) -> None:
    """Turn uint8 weights into int8 ones where kernels without VNNI compute the same, in place.

    ONNX Runtime's kernels of u8 activations and s8 weights are about twice as fast as those of two
    u8, and OpenVINO has none for two u8. Those for x86 without VNNI add pairs of products in
    signed 16 bits and saturate there; the first layer is where it is worst, since images are not
    mostly zeros. Whether it happens is computed on the images, in the order of sums that ONNX
    Runtime has (each pixel's channels lie side by side).

    Args:
        model: whose symmetric 8-bit weights are uint8 with zero point 128; others stay.
        images: normalized ones (N, C, H, W); the first few are run.
    """
    view = GraphView(model.graph)
    layers = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight = view.producers.get(node.input[1])
            quantizer = view.quantizer_of(node.input[0])
            if weight is None or quantizer is None:
                continue
            both = view.storage(weight) == view.storage(quantizer) == TensorProto.UINT8
            if both and bool((view.array(weight.input[2]) == 128).all()):
                layers.append((node, weight, quantizer))
    if not layers:
        return
    inputs = list(dict.fromkeys(node.input[0] for node, _, _ in layers))
    values = dict(zip(inputs, _values(model, inputs, images[:_NUM_IMAGES]), strict=True))
    errors: dict[str, float] = {}
    for node, weight, quantizer in layers:
        scale, zero_point = (view.array(name) for name in quantizer.input[1:3])
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        levels = torch.from_numpy(values[node.input[0]] / scale).round() + int(zero_point)
        name = weight.input[0]
        error = saturation_error(
            levels,
            torch.from_numpy(_signed(view.array(name))),
            zero_point=int(zero_point),
            strides=tuple(attributes.get("strides", (1, 1))),
            pads=tuple(attributes.get("pads", (0, 0, 0, 0))),
            dilations=tuple(attributes.get("dilations", (1, 1))),
            groups=attributes.get("group", 1),
        )
        errors[name] = max(error, errors.get(name, 0.0))  # two layers may share weights
    for node in model.graph.node:
        if node.input and errors.get(node.input[0], np.inf) <= _MAX_ERROR:
            del node.input[2]  # the zero point, which other layers may share
    for name, error in errors.items():
        if error <= _MAX_ERROR:
            tensor = numpy_helper.from_array(_signed(view.array(name)), name)
            view.initializers[name].CopyFrom(tensor)
    drop_unused(model.graph)


def _signed(weight: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.int8]]:
    return (weight.astype(np.int16) - 128).astype(np.int8)


def saturation_error(
    levels: Tensor,
    weight: Tensor,
    *,
    zero_point: int,
    strides: tuple[int, ...] = (1, 1),
    pads: tuple[int, ...] = (0, 0, 0, 0),
    dilations: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> float:
    """What is lost by adding pairs of products in signed 16 bits, relative to a layer's output.

    Args:
        levels: input (N, I, H, W) or (N, I), whole numbers in [0, 255].
        weight: (O, I / groups, h, w) or (O, I), int8.
        zero_point: of the input.
        strides: of the convolution; so are ``pads``, as ONNX orders them, ``dilations`` and
            ``groups``.

    Returns:
        Root of the mean square of the loss over that of the centered output.
    """
    if weight.ndim == 2:
        levels, weight = levels[:, :, None, None], weight[:, :, None, None]
    top, left, bottom, right = pads
    padded = F.pad(levels, (left, right, top, bottom), value=zero_point)
    if weight.shape[1] == 1 and len(weight) == groups:
        return 0.0  # kernels of depthwise convolutions add single products in 32 bits
    exact, lost = [], []
    for inputs, filters in zip(padded.chunk(groups, 1), weight.chunk(groups), strict=True):
        # (O, h * w * I): the channels of a pixel side by side, as integer kernels order them.
        rows = filters.permute(0, 2, 3, 1).flatten(1).float()
        columns = F.unfold(inputs, filters.shape[2:], dilation=dilations, stride=strides)
        columns = columns.unflatten(1, (filters.shape[1], -1)).transpose(1, 2).flatten(1, 2)
        exact.append(rows @ (columns - zero_point))
        lost.append(_saturation(rows, columns))
    outputs = torch.cat(exact, 1)
    spread = (outputs - outputs.mean()).square().mean().clamp_min(1e-12)
    return float((torch.cat(lost, 1).square().mean() / spread).sqrt())


def _saturation(rows: Tensor, columns: Tensor) -> Tensor:
    """What ``rows @ columns`` loses (N, O, L), of rows (O, K) and columns (N, K, L) in [0, 255]."""
    if rows.shape[1] % 2:
        rows, columns = F.pad(rows, (0, 1)), F.pad(columns, (0, 0, 0, 1))
    pairs = rows.unflatten(1, (-1, 2))
    largest = torch.maximum(pairs.clamp_min(0).sum(2), -pairs.clamp_max(0).sum(2))
    lost = columns.new_zeros(len(columns), len(rows), columns.shape[2])
    for output, pair in (255 * largest > _LARGEST_INT16).nonzero().tolist():
        first, second = columns[:, 2 * pair], columns[:, 2 * pair + 1]
        total = pairs[output, pair, 0] * first + pairs[output, pair, 1] * second
        lost[:, output] += total - total.clamp(-_LARGEST_INT16 - 1, _LARGEST_INT16)
    return lost


def _values(model: onnx.ModelProto, names: list[str], images: Tensor) -> list[Any]:
    """These values of the graph on the images, computed in floats as the file says."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    given = {value.name for value in model.graph.input}
    computed = [name for name in names if name not in given]
    probed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in computed
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: images.numpy()}
    arrays = dict(zip(computed, session.run(computed, feed), strict=True)) if computed else {}
    return [arrays.get(name, images.numpy()) for name in names]
