"""Workaround for strided 1x1 convolutions with few input channels in oneDNN.

In channels-last order, the gradient of their weights writes past its workspace if the input
channels do not fill a vector (https://github.com/uxlfoundation/oneDNN/issues/6035): the process
crashes, hangs or computes wrong gradients. Such a convolution therefore runs without a stride on
its subsampled input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["apply_layer", "safe_gradients"]

_WIDEST_VECTOR = 16  # float32 values, with AVX-512


def apply_layer(
    layer: nn.Conv2d | nn.Linear, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """The output of a layer with other weights; convolutions are padded with zeros."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    stride = layer.stride
    if _is_affected(layer):
        x, stride = x[..., :: stride[0], :: stride[1]], (1, 1)
    return F.conv2d(x, weight, bias, stride, layer.padding, layer.dilation, layer.groups)


@contextmanager
def safe_gradients(module: nn.Module) -> Iterator[None]:
    """Context in which the weights of every ``nn.Conv2d`` of a module can be trained."""
    affected = [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d)
        and type(layer).forward is nn.Conv2d.forward
        and type(layer)._conv_forward is nn.Conv2d._conv_forward
        and "forward" not in vars(layer)
        and _is_affected(layer)
    ]
    for layer in affected:
        layer.forward = MethodType(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in affected:
            del layer.forward


def _forward(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return apply_layer(layer, x, layer.weight, layer.bias)


def _is_affected(layer: nn.Conv2d) -> bool:
    return (
        layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.padding in ((0, 0), "valid")
        and layer.in_channels // layer.groups < _WIDEST_VECTOR
    )
