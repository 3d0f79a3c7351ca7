"""Quantized modules as ONNX nodes: QuantizeLinear, DequantizeLinear and integer weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import onnx
import torch
from onnx import TensorProto
from onnxscript import opset21 as op
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.errors import ExportError
from mixmix.export.onnx.two_bits import runs_two_bits, two_bit_weights
from mixmix.export.placeholders import with_placeholders
from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer

__all__ = ["TRANSLATIONS", "with_onnx_placeholders"]

# Kernels for u8 activations and s8 weights on x86 without VNNI add pairs of products in signed
# 16 bits and saturate; 2 * 255 * 64 still fits.
_LARGEST_SAFE_WEIGHT = 64

# Integer kernels return 8 bits only, so a quantizer of fewer bits becomes two: one of 8 bits with
# this number of levels per coarse level, fused with the kernel, and one that rounds to the coarse
# levels, a lookup table in ONNX Runtime. The function is the same: the numbers are odd, so no fine
# level is half-way between two coarse ones, and the 255 levels end less than half a coarse level
# beyond the last.
_SUBLEVELS = {2: 85, 3: 35, 4: 17}

# PyTorch's exporter cannot write quantizers below 8 bits. These two operators pass through it
# and are translated below; they are never run.


@torch.library.custom_op("mixmix::quantize_activation", mutates_args=())
def _quantize_activation(
    x: Tensor, scale: float, zero_point: int, bits: int, sublevels: int
) -> Tensor:
    raise NotImplementedError("stands for ONNX nodes")


@_quantize_activation.register_fake
def _(x: Tensor, scale: float, zero_point: int, bits: int, sublevels: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("mixmix::dequantize_weight", mutates_args=())
def _dequantize_weight(
    integers: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    is_odd: Tensor | None,
    bits: int,
) -> Tensor:
    raise NotImplementedError("stands for ONNX nodes")


@_dequantize_weight.register_fake
def _(
    integers: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    is_odd: Tensor | None,
    bits: int,
) -> Tensor:
    return torch.empty_like(integers, dtype=torch.float32)


def _translate_activation(x: Any, scale: float, zero_point: int, bits: int, sublevels: int) -> Any:
    def constant(data_type: int, value: float) -> Any:
        return op.Constant(value=onnx.helper.make_tensor("value", data_type, [], [value]))

    def quantize(x: Any, scale: float, zero_point: int, storage: int) -> Any:
        step, zero = constant(TensorProto.FLOAT, scale), constant(storage, zero_point)
        return op.DequantizeLinear(op.QuantizeLinear(x, step, zero), step, zero)

    # Not UINT4: ONNX Runtime 1.32 rejects models with Clip or MaxPool next to such a quantizer.
    storage = TensorProto.UINT8 if bits <= 8 else TensorProto.UINT16
    if sublevels:
        fine = quantize(x, scale / sublevels, zero_point * sublevels, storage)
        return quantize(op.LeakyRelu(fine, alpha=1.0), scale, zero_point, storage)
    if bits not in (8, 16):
        lowest = constant(TensorProto.FLOAT, -zero_point * scale)
        highest = constant(TensorProto.FLOAT, (2**bits - 1 - zero_point) * scale)
        x = op.Clip(x, lowest, highest)
    return quantize(x, scale, zero_point, storage)


def _translate_weight(integers: Any, scale: Any, zero_point: Any, is_odd: Any, bits: int) -> Any:
    def narrow(x: Any) -> Any:
        storage = TensorProto.INT2 if bits == 2 else TensorProto.INT4
        return x if x is None or bits > 4 else op.Cast(x, to=storage)

    weight = op.DequantizeLinear(narrow(integers), scale, narrow(zero_point), axis=0)
    if is_odd is None:
        return weight
    half = op.Constant(value=onnx.helper.make_tensor("value", TensorProto.FLOAT, [], [0.5]))
    return op.Add(weight, op.Mul(op.DequantizeLinear(narrow(is_odd), scale, axis=0), half))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.mixmix.quantize_activation.default: _translate_activation,
    torch.ops.mixmix.dequantize_weight.default: _translate_weight,
}


class _Activation(nn.Module):
    """Placeholder of a ``QuantizedActivation``."""

    def __init__(self, source: QuantizedActivation, *, fast: bool) -> None:
        super().__init__()
        if source.bits > 16:
            raise ExportError(
                f"ONNX stores activations in at most 16 bits, got {source.bits}; quantize to fewer"
            )
        self.scale = float(source.scale)
        self.zero_point = int(source.zero_point)
        self.bits = source.bits
        self.sublevels = _SUBLEVELS.get(source.bits, 0) if fast else 0

    def forward(self, x: Tensor) -> Tensor:
        quantized: Tensor = _quantize_activation(
            x, self.scale, self.zero_point, self.bits, self.sublevels
        )
        return quantized


class _Layer(nn.Module):
    """Placeholder of a ``QuantizedLayer``."""

    integers: Tensor
    scale: Tensor
    zero_point: Tensor | None
    is_odd: Tensor | None
    bias: Tensor | None

    def __init__(self, source: QuantizedLayer, *, fast: bool) -> None:
        super().__init__()
        self.bits = 8 if fast else max(source.bits, 3)
        self.convolution: dict[str, Any] | None = source.convolution
        integers, scale = source.integers.to(torch.int16), source.scale
        zero_point = torch.zeros(len(integers), dtype=torch.int16)
        if source.zero_point is not None:
            zero_point = source.zero_point.to(torch.int16)
        largest = int(max(integers.abs().amax(), zero_point.abs().amax()))
        if fast and largest:
            # Integer kernels round the bias to the product of the scales of input and weights.
            multiple = max(1, _LARGEST_SAFE_WEIGHT // largest)
            integers, scale = integers * multiple, scale / multiple
            zero_point = zero_point * multiple
        is_odd = None
        if not fast and source.bits == 2 and runs_two_bits():
            packed = two_bit_weights(integers, scale, zero_point)
            if packed is not None:
                integers, scale, zero_point, is_odd = packed
                self.bits = 2
        is_unsigned = largest > _LARGEST_SAFE_WEIGHT
        integers, zero_point = (
            (tensor + 128).to(torch.uint8) if is_unsigned else tensor.to(torch.int8)
            for tensor in (integers, zero_point)
        )
        self.register_buffer("integers", integers.contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point if bool(zero_point.any()) else None)
        self.register_buffer("is_odd", is_odd)
        self.register_buffer("bias", source.bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = _dequantize_weight(
            self.integers, self.scale, self.zero_point, self.is_odd, self.bits
        )
        if self.convolution is None:
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, **self.convolution)


def with_onnx_placeholders(model: nn.Module, *, fast: bool) -> nn.Module:
    """A copy that PyTorch can export with ``TRANSLATIONS``.

    Args:
        model: it is not changed.
        fast: write patterns for integer kernels rather than the smallest file.

    Raises:
        ExportError: if an activation has more than 16 bits.
    """
    return with_placeholders(
        model,
        activation=partial(_Activation, fast=fast),
        layer=partial(_Layer, fast=fast),
    )
