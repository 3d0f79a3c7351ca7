"""Random dropping of quantization (QDrop, Wei et al. 2022): some values stay in float."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixmix.compress.quantize import rounding_kernels
from mixmix.runtime.compiled import flat_view, is_compilable, row_view
from mixmix.runtime.memory_layout import memory_layout

__all__ = ["fake_quantize", "mix_inputs", "random_mask"]


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, *, quantize_prob: float
) -> Tensor:
    """Quantize each value with a probability; the others are returned unchanged.

    Quantized values have the gradients of LSQ (Esser et al. 2020, eq. 3): for x, one inside the
    range and zero outside; for the scale, the rounding error or the clipping level.

    Args:
        x: any shape.
        scale: () > 0.
        zero_point: () whole number.
        bits: bit width.
        quantize_prob: probability that a value is quantized, in [0, 1].
    """
    if is_compilable(x, scale):
        out: Tensor = _FakeQuantize.apply(x, scale, float(zero_point), 2**bits - 1, quantize_prob)
        return out
    return _fake_quantize_plain(x, scale, zero_point, bits, quantize_prob)


def _fake_quantize_plain(
    x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, quantize_prob: float
) -> Tensor:
    quantized: Tensor = torch._fake_quantize_learnable_per_tensor_affine(
        x, scale.view(1), zero_point.view(1), 0, 2**bits - 1, 1.0
    )
    if quantize_prob < 1:
        quantized = torch.lerp(x, quantized, random_mask(x, quantize_prob))
    return quantized


class _FakeQuantize(torch.autograd.Function):
    """``_fake_quantize_plain`` in one pass, and its gradient in another."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: float, largest: int, fraction: float
    ) -> Tensor:
        x = x.contiguous(memory_format=memory_layout(x))
        out = torch.empty_like(x)
        ctx.grid = [np.float32(value) for value in (scale.item(), zero_point, largest)]
        ctx.draws = (rounding_kernels.fraction_to_threshold(fraction), rounding_kernels.draw_key())
        rounding_kernels.quantize(flat_view(x), flat_view(out), *ctx.grid, *ctx.draws)
        ctx.save_for_backward(x)
        ctx.out, ctx.version = out.detach(), out._version
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        (gradient,) = gradients
        out = ctx.out
        if out._version != ctx.version:  # modified in place, such as by ``out += shortcut``
            out = torch.empty_like(x)
            rounding_kernels.quantize(flat_view(x), flat_view(out), *ctx.grid, *ctx.draws)
        if gradient.stride() != x.stride():
            gradient = torch.empty_like(x).copy_(gradient)
        by_x = torch.empty_like(x)
        views: list[Any] = [flat_view(tensor) for tensor in (gradient, x, out, by_x)]
        by_scale = rounding_kernels.quantize_gradient(*views, *ctx.grid)
        return by_x, torch.tensor(by_scale, dtype=x.dtype), None, None, None


def mix_inputs(
    float_inputs: Tensor, quantized_inputs: Tensor, chosen: Tensor, *, quantize_prob: float
) -> Tensor:
    """Rows ``chosen`` of two tensors (N, ...), each value from the second with a probability."""
    if is_compilable(float_inputs, quantized_inputs):
        shape, layout = (len(chosen), *float_inputs.shape[1:]), memory_layout(float_inputs)
        mixed = torch.empty(shape, memory_format=layout)
        rounding_kernels.mix_rows(
            row_view(float_inputs),
            row_view(quantized_inputs.contiguous(memory_format=layout)),
            chosen.numpy(),
            row_view(mixed),
            rounding_kernels.fraction_to_threshold(quantize_prob),
            rounding_kernels.draw_key(),
        )
        return mixed
    inputs = quantized_inputs[chosen]
    if quantize_prob < 1:
        mask = random_mask(inputs, quantize_prob)
        inputs = torch.lerp(float_inputs[chosen], inputs, mask)
    return inputs


def random_mask(like: Tensor, probability: float) -> Tensor:
    """Random ones and zeros with the shape, layout and device of ``like``.

    Each random 64-bit number yields eight values, so that ``probability`` is rounded to 1/256:
    drawing a number for each value would take as long as a convolution.
    """
    words = torch.empty((like.numel() + 7) // 8, dtype=torch.int64, device=like.device)
    words.random_(-(2**63), None)
    ones = words.view(torch.uint8)[: like.numel()] < min(round(probability * 256), 255)
    mask = torch.empty_like(like)
    mask.as_strided((like.numel(),), (1,)).copy_(ones)
    return mask
