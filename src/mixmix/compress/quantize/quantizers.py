"""Grids, scales and their search: the maths of uniform quantization."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ActivationRange", "WeightGrid", "search_activation_range", "search_weight_grid"]

_CLIPPING_FRACTIONS = torch.linspace(1.0, 0.2, 41)
# Values of a sample that errors are taken of: the search passes over them for every fraction.
_SEARCHED_VALUES = 2**18


@dataclass(frozen=True)
class WeightGrid:
    """The levels a layer's weights may take: ``scale * (step * q + offset)``, q = 0 .. 2**bits - 1.

    ``step`` and ``offset`` are whole numbers, so that every weight is an integer times its
    channel's scale. With four bits or more the levels are the signed integers; below, each channel
    has the better of the integers around zero and the odd integers (a grid without zero, whose
    error is a third smaller for bell-shaped weights at two bits). An affine grid has any lowest
    level from ``1 - 2**bits`` to 0, and is stored with a zero point.

    Attributes:
        bits: 2 to 8.
        scale: (out, 1, ...) float > 0, broadcast over the weight.
        step: (out, 1, ...) 1 or 2.
        offset: (out, 1, ...) the lowest level.
        symmetric: levels are stored as they are; else those with step 1 as ``-2**(bits - 1)`` to
            ``2**(bits - 1) - 1``, the zero point being the integer that stands for zero.
    """

    bits: int
    scale: Tensor
    step: Tensor
    offset: Tensor
    symmetric: bool = True

    @property
    def largest(self) -> int:
        return int(2**self.bits - 1)

    def position(self, weight: Tensor) -> Tensor:
        """Where weights lie on the grid, as real q before rounding and clamping."""
        return (weight / self.scale - self.offset) / self.step

    def value(self, q: Tensor) -> Tensor:
        """Weights at positions q."""
        return (q * self.step + self.offset) * self.scale

    @property
    def zero_point(self) -> Tensor:
        """The stored integer (out, 1, ...) that stands for zero."""
        if self.symmetric:
            return torch.zeros_like(self.offset)
        lowest = float(-(2 ** (self.bits - 1)))
        return torch.where(self.step == 1, lowest - self.offset, torch.zeros_like(self.offset))

    def integers(self, q: Tensor) -> Tensor:
        """Whole positions q as the int8 that are stored: weights over scale, plus zero point."""
        return (q * self.step + self.offset + self.zero_point).to(torch.int8)

    def nearest(self, weight: Tensor) -> Tensor:
        """Positions (whole, clamped) nearest to the weights."""
        return self.position(weight).round().clamp(0, self.largest)


def _layouts(bits: int, *, with_zero: bool) -> list[tuple[int, int]]:
    """(step, offset) of the grids to choose from."""
    half = 2 ** (bits - 1)
    if bits > 3:
        return [(1, -half)]
    around_zero = [(1, -half), (1, 1 - half)]
    return around_zero if with_zero else [*around_zero, (2, 1 - 2 * half)]


def _weight_candidates(
    flat: Tensor, bits: int, *, symmetric: bool, with_zero: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(scale, step, offset), each (rows, 1), of the grids to choose from for rows of weights."""
    peak = flat.abs().amax(1, keepdim=True).clamp_min(1e-8)
    for step, offset in _layouts(bits, with_zero=with_zero):
        reach = max(-offset, (2**bits - 1) * step + offset)
        for fraction in _CLIPPING_FRACTIONS.tolist():
            scale = peak * fraction / reach
            yield scale, torch.full_like(scale, step), torch.full_like(scale, offset)
    if symmetric:
        return
    low = flat.amin(1, keepdim=True).clamp(max=0)
    length = (flat.amax(1, keepdim=True).clamp(min=0) - low).clamp_min(1e-8)
    for fraction in _CLIPPING_FRACTIONS.tolist():
        scale = length * fraction / (2**bits - 1)
        offset = (low * fraction / scale).round().clamp(1 - 2**bits, 0)
        yield scale, torch.ones_like(scale), offset


@torch.no_grad()
def search_weight_grid(
    weight: Tensor,
    bits: int,
    *,
    per_channel: bool = True,
    symmetric: bool = True,
    with_zero: bool = False,
) -> WeightGrid:
    """The grid of least squared error, channel by channel.

    Args:
        weight: (out, in, ...).
        bits: 2 to 8.
        per_channel: a grid for each output channel; else one for all.
        symmetric: around zero; else the better of those and of affine ones.
        with_zero: zero is a level in every channel.

    Returns:
        Scales of shape (out, 1, ...).
    """
    flat = weight.reshape(weight.shape[0] if per_channel else 1, -1)
    best_error: Tensor | None = None
    best: tuple[Tensor, ...] = ()
    for candidate in _weight_candidates(flat, bits, symmetric=symmetric, with_zero=with_zero):
        scale, step, offset = candidate
        q = ((flat / scale - offset) / step).round().clamp(0, 2**bits - 1)
        error = ((q * step + offset) * scale - flat).square().sum(1, keepdim=True)
        if best_error is None:
            best_error, best = error, candidate
            continue
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = tuple(
            torch.where(better, new, old) for new, old in zip(candidate, best, strict=True)
        )
    shape = (weight.shape[0],) + (1,) * (weight.ndim - 1)
    scale, steps, offsets = (t.expand(weight.shape[0], 1).reshape(shape).clone() for t in best)
    return WeightGrid(bits, scale, steps, offsets, symmetric)


@dataclass(frozen=True)
class ActivationRange:
    """Scale () > 0 and zero point () of a per-tensor affine quantizer to 0 .. 2**bits - 1."""

    bits: int
    scale: Tensor
    zero_point: Tensor


@torch.no_grad()
def search_activation_range(
    sample: Tensor, bits: int, *, symmetric: bool = False
) -> ActivationRange:
    """The clipping range of least squared error on a sample of activations.

    Args:
        sample: any shape; its smallest and largest value bound the search, whose error is that of
            an even choice of at most half a million values.
        bits: 2 to 8.
        symmetric: a zero point of ``2**(bits - 1)`` where values are negative, else 0.

    Returns:
        A range that contains zero exactly, so that padding and ReLU stay exact.
    """
    values = sample.flatten().float()
    low, high = values.amin().clamp(max=0), values.amax().clamp(min=0)
    if bool(low == high):
        high = torch.ones_like(high)  # nothing but zeros, and kernels divide biases by the scale
    # An odd stride, so that it does not keep step with rows or channels.
    values = values[:: len(values) // _SEARCHED_VALUES | 1]
    levels = 2**bits - 1
    if symmetric and bool(low < 0):
        # As many levels below zero as make 2**(bits - 1) - 1 of them reach the larger side.
        step = torch.maximum(-low, high) / (2 ** (bits - 1) - 1)
        low, high = -(2 ** (bits - 1)) * step, (2 ** (bits - 1) - 1) * step
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for fraction in _CLIPPING_FRACTIONS.tolist():
        scale = ((high - low) * fraction / levels).clamp_min(1e-8)
        zero_point = (-low * fraction / scale).round().clamp(0, levels)
        q = ((values / scale).round() + zero_point).clamp(0, levels)
        error = ((q - zero_point) * scale - values).square().mean()
        if best is None or bool(error < best[0]):
            best = (error, scale, zero_point)
    assert best is not None
    return ActivationRange(bits, best[1], best[2])
