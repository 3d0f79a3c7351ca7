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

from mixmix.exporters.onnx_graph import GraphView

__all__ = ["prefer_signed_weights", "saturation_error"]

_LARGEST_INT16 = 2**15 - 1
# A tenth of the share that rounding a layer's output to 8 bits has in it.
_MAX_ERROR = 1e-3
_NUM_IMAGES = 8


def prefer_signed_weights(model: onnx.ModelProto, images: Tensor) -> None:
    """Turn uint8 weights into int8 ones where kernels without VNNI compute the same, in place.

    With VNNI, kernels of u8 activations and s8 weights are about twice as fast as those of two u8.
    Those for x86 without it add pairs of products in signed 16 bits and saturate there. Whether it
    happens is computed on the images, in the order of sums that ONNX Runtime has (each pixel's
    channels lie side by side).

    Args:
        model: whose symmetric 8-bit weights are uint8 with zero point 128; others stay.
        images: normalised ones (N, C, H, W); the first few are run.
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
    for node, weight, quantizer in layers:
        scale, zero_point = (view.array(name) for name in quantizer.input[1:3])
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if attributes.get("group", 1) > 1:
            continue  # kernels of few products gain nothing
        levels = torch.from_numpy(values[node.input[0]] / scale).round() + int(zero_point)
        signed = (view.array(weight.input[0]).astype(np.int16) - 128).astype(np.int8)
        error = saturation_error(
            levels,
            torch.from_numpy(signed),
            zero_point=int(zero_point),
            strides=tuple(attributes.get("strides", (1, 1))),
            pads=tuple(attributes.get("pads", (0, 0, 0, 0))),
            dilations=tuple(attributes.get("dilations", (1, 1))),
        )
        if error <= _MAX_ERROR:
            zeros = np.zeros(len(signed), np.int8)
            for name, array in ((weight.input[0], signed), (weight.input[2], zeros)):
                view.initializers[name].CopyFrom(numpy_helper.from_array(array, name))


def saturation_error(
    levels: Tensor,
    weight: Tensor,
    *,
    zero_point: int,
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
) -> float:
    """What is lost by adding pairs of products in signed 16 bits, relative to a layer's output.

    Args:
        levels: input (N, I, H, W) or (N, I), whole numbers in [0, 255].
        weight: (O, I, h, w) or (O, I), int8.
        zero_point: of the input.
        strides: of the convolution; so are ``pads``, as ONNX orders them, and ``dilations``.

    Returns:
        Root of the mean square of the loss over that of the centred output.
    """
    if weight.ndim == 2:
        levels, weight = levels[:, :, None, None], weight[:, :, None, None]
    top, left, bottom, right = pads
    padded = F.pad(levels, (left, right, top, bottom), value=zero_point)
    # (O, h * w * I): the channels of a pixel side by side, as integer kernels order them.
    rows = weight.permute(0, 2, 3, 1).flatten(1).float()
    columns = F.unfold(padded, weight.shape[2:], dilation=dilations, stride=strides)
    columns = columns.unflatten(1, (weight.shape[1], -1)).transpose(1, 2).flatten(1, 2)
    exact = rows @ (columns - zero_point)
    if rows.shape[1] % 2:
        rows, columns = F.pad(rows, (0, 1)), F.pad(columns, (0, 0, 0, 1))
    pairs = rows.unflatten(1, (-1, 2))
    largest = torch.maximum(pairs.clamp_min(0).sum(2), -pairs.clamp_max(0).sum(2))
    lost = torch.zeros_like(exact)
    for output, pair in (255 * largest > _LARGEST_INT16).nonzero().tolist():
        total = (
            pairs[output, pair, 0] * columns[:, 2 * pair]
            + pairs[output, pair, 1] * columns[:, 2 * pair + 1]
        )
        lost[:, output] += total - total.clamp(-_LARGEST_INT16 - 1, _LARGEST_INT16)
    spread = (exact - exact.mean()).square().mean().clamp_min(1e-12)
    return float((lost.square().mean() / spread).sqrt())


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
