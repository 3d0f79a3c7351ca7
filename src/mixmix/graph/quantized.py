"""Quantized layers for deployment: integers and scales, without learnable parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["QuantizedActivation", "QuantizedLayer"]


class QuantizedActivation(nn.Module):
    """Per-tensor affine quantization to unsigned integers, and back to floats.

    ``x -> (clamp(round(x / scale) + zero_point, 0, 2**bits - 1) - zero_point) * scale``

    Buffers: ``scale`` () float32 > 0, ``zero_point`` () int32 in [0, 2**bits - 1].
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", scale.detach().float().reshape(()).clone())
        self.register_buffer("zero_point", zero_point.detach().to(torch.int32).reshape(()).clone())

    @property
    def largest(self) -> int:
        return int(2**self.bits - 1)

    def forward(self, x: Tensor) -> Tensor:
        integers = torch.clamp(torch.round(x / self.scale) + self.zero_point, 0, self.largest)
        return (integers - self.zero_point) * self.scale


class QuantizedLayer(nn.Module):
    """A convolution or linear layer with integer weights, per output channel.

    ``weight = (integers - zero_point) * scale``

    Buffers: ``integers`` int8 of the weight's shape, within ``bits``; ``scale`` (out,) float32;
    ``zero_point`` (out,) int8, or None for symmetric quantization; ``bias`` (out,) float32 or None.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        integers: Tensor,
        scale: Tensor,
        bits: int,
        *,
        zero_point: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("integers", integers.detach().to(torch.int8).contiguous().clone())
        self.register_buffer("scale", scale.detach().float().reshape(-1).clone())
        if zero_point is not None:
            zero_point = zero_point.detach().to(torch.int8).reshape(-1).clone()
        self.register_buffer("zero_point", zero_point)
        bias = layer.bias if bias is None else bias
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())
        self.convolution: dict[str, Any] | None = None
        if isinstance(layer, nn.Conv2d):
            names = ("stride", "padding", "dilation", "groups")
            self.convolution = {name: getattr(layer, name) for name in names}

    def weight(self) -> Tensor:
        """The dequantized weights, of the original shape."""
        shape = (-1,) + (1,) * (self.integers.ndim - 1)
        integers = self.integers.float()
        if self.zero_point is not None:
            integers = integers - self.zero_point.view(shape)
        return integers * self.scale.view(shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.convolution is None:
            return F.linear(x, self.weight(), self.bias)
        return F.conv2d(x, self.weight(), self.bias, **self.convolution)
