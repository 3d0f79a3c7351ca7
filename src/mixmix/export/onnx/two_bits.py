"""Weights of two bits, four to a byte: INT2 of opset 25, from -2 to 1."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto
from torch import Tensor

from mixmix.errors import DataError
from mixmix.runtimes.session import OnnxSession

__all__ = ["TwoBitWeights", "declare_two_bits", "runs_two_bits", "two_bit_weights"]

_OPSET, _IR_VERSION = 25, 13


class TwoBitWeights(NamedTuple):
    """``weight = (integers - zero_point + is_odd / 2) * scale``, by channel.

    ``integers`` (out, in, ...) and ``zero_point`` (out,) are int16 from -2 to 1, ``scale`` is
    (out,), and ``is_odd`` (out, 1, ...) int8 of 0 and 1, or None if all are 0.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor
    is_odd: Tensor | None


def two_bit_weights(integers: Tensor, scale: Tensor, zero_point: Tensor) -> TwoBitWeights | None:
    """The same weights as integers of two bits, or None if they have other levels.

    The levels of a channel (see ``WeightGrid``) are consecutive integers, which a zero point moves
    to -2 to 1, or the odd integers -3, -1, 1, 3, which are 2 q + 1 for q from -2 to 1. Floating
    point multiplies by 2 exactly, so that no weight changes.

    Args:
        integers: (out, in, ...) int16.
        scale: (out,) float32.
        zero_point: (out,) int16.
    """
    levels = integers.flatten(1) - zero_point[:, None]
    low, high = levels.amin(1), levels.amax(1)
    moved = (-2 - low).clamp_min(0) - (high - 1).clamp_min(0)
    is_odd = (low + moved < -2) | (high + moved > 1) | (moved < -2) | (moved > 1)
    if bool(((levels % 2 == 0) | (levels.abs() > 3))[is_odd].any()):
        return None
    halves = torch.div(levels - 1, 2, rounding_mode="floor")
    packed = torch.where(is_odd[:, None], halves, levels + moved[:, None])
    shape = (-1,) + (1,) * (integers.ndim - 1)
    return TwoBitWeights(
        packed.view_as(integers),
        torch.where(is_odd, 2 * scale, scale),
        torch.where(is_odd, 0, moved),
        is_odd.view(shape).to(torch.int8) if bool(is_odd.any()) else None,
    )


def declare_two_bits(model: ir.Model) -> None:
    """Raise the versions of a model with weights of two bits to those that have the type."""
    if any(value.dtype == ir.DataType.INT2 for value in model.graph.initializers.values()):
        model.graph.opset_imports[""] = _OPSET
        model.ir_version = max(model.ir_version, _IR_VERSION)


@cache
def runs_two_bits() -> bool:
    """Whether the installed ONNX and ONNX Runtime have weights of two bits."""
    if not hasattr(TensorProto, "INT2") or onnx.defs.onnx_opset_version() < _OPSET:
        return False
    make, floats = onnx.helper.make_tensor_value_info, TensorProto.FLOAT
    weight = ir.tensor(np.ones((1, 1), np.int8).astype(ir.DataType.INT2.numpy()), name="w")
    constants = [
        ir.to_proto(weight),
        onnx.helper.make_tensor("scale", floats, [1], [1.0]),
    ]
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["w", "scale"], ["d"], axis=0),
        onnx.helper.make_node("MatMul", ["images", "d"], ["logits"]),
    ]
    graph = onnx.helper.make_graph(
        nodes, "two_bits", [make("images", floats, [1, 1])], [make("logits", floats, [1, 1])]
    )
    graph.initializer.extend(constants)
    imports = [onnx.helper.make_opsetid("", _OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)
    try:
        OnnxSession(model.SerializeToString())
    except DataError:
        return False
    return True
