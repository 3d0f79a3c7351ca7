"""Uniform quantization: grids of levels, and the search for their scales."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ActivationRange", "WeightGrid", "search_activation_range", "search_weight_grid"]

_CLIPPING_FRACTIONS = torch.linspace(1.0, 0.2, 41)
# Number of sampled activations that the search evaluates.
_SEARCHED_VALUES = 2**18


@dataclass(frozen=True)
class WeightGrid:
    """Levels of a layer's weights: ``scale * (step * q + offset)`` for q = 0 .. 2**bits - 1.

    ``step`` and ``offset`` are whole numbers, so that every weight is an integer times its
    channel's scale. With four bits or more, the levels of a symmetric grid are the signed integers;
    with fewer, each channel uses either integers around zero or the odd integers, whichever has the
    smaller error (at two bits, odd integers reduce the error of normally distributed weights by a
    third). The lowest level of an affine grid is between ``1 - 2**bits`` and 0.

    Attributes:
        bits: 2 to 8.
        scale: (out, 1, ...) float > 0.
        step: (out, 1, ...) 1 or 2.
        offset: (out, 1, ...) the lowest level.
        symmetric: store levels without a zero point. Otherwise levels of step 1 are stored as
            ``-2**(bits - 1)`` to ``2**(bits - 1) - 1`` with a zero point.
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
        """Real-valued positions q of weights, before rounding and clamping."""
        return (weight / self.scale - self.offset) / self.step

    def value(self, q: Tensor) -> Tensor:
        """Weights at positions q."""
        return (q * self.step + self.offset) * self.scale

    @property
    def zero_point(self) -> Tensor:
        """The stored integer (out, 1, ...) that represents zero."""
        if self.symmetric:
            return torch.zeros_like(self.offset)
        lowest = float(-(2 ** (self.bits - 1)))
        return torch.where(self.step == 1, lowest - self.offset, torch.zeros_like(self.offset))

    def integers(self, q: Tensor) -> Tensor:
        """Stored int8 values of whole positions q: ``weight / scale + zero_point``."""
        return (q * self.step + self.offset + self.zero_point).to(torch.int8)

    def nearest(self, weight: Tensor) -> Tensor:
        """Whole positions nearest to the weights, clamped to the grid."""
        return self.position(weight).round().clamp(0, self.largest)


def _layouts(bits: int, *, with_zero: bool) -> list[tuple[int, int]]:
    """Candidates of (step, offset) for symmetric grids."""
    half = 2 ** (bits - 1)
    if bits > 3:
        return [(1, -half)]
    around_zero = [(1, -half), (1, 1 - half)]
    return around_zero if with_zero else [*around_zero, (2, 1 - 2 * half)]


def _weight_candidates(
    flat: Tensor, bits: int, *, symmetric: bool, with_zero: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Candidates of (scale, step, offset), each (rows, 1), for rows of weights."""
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
    """Find the grid of least squared error for each channel.

    Args:
        weight: (out, in, ...).
        bits: 2 to 8.
        per_channel: one grid for each output channel, else one for all.
        symmetric: consider symmetric grids only, else affine ones too.
        with_zero: zero must be a level in every channel.
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


class ActivationRange(NamedTuple):
    """Scale () > 0 and zero point () of an affine quantizer to 0 .. 2**bits - 1."""

    scale: Tensor
    zero_point: Tensor


@torch.no_grad()
def search_activation_range(
    sample: Tensor, bits: int, *, symmetric: bool = False
) -> ActivationRange:
    """Find the clipping range of least squared error on a sample of activations.

    Args:
        sample: any shape. The error is computed on at most half a million evenly spaced values.
        bits: 2 to 8.
        symmetric: use the zero point ``2**(bits - 1)`` if there are negative values, else 0.

    Returns:
        A range that represents zero exactly, so that padding and ReLU stay exact.
    """
    values = sample.flatten().float()
    low, high = values.amin().clamp(max=0), values.amax().clamp(min=0)
    if bool(low == high):
        high = torch.ones_like(high)  # all zeros; kernels divide biases by the scale
    # An odd stride does not align with rows or channels.
    values = values[:: len(values) // _SEARCHED_VALUES | 1]
    levels = 2**bits - 1
    if symmetric and bool(low < 0):
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
    return ActivationRange(*best[1:])
