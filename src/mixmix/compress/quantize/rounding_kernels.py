"""Compiled loops of reconstruction over flat float32 arrays: one pass where PyTorch takes many.

They are deterministic, and written to vectorize: no branches, no calls into the C library, and
reductions over parts of at most a few thousand float32 values, whose sums are added in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixmix.runtime.compiled import Floats, compiled

__all__ = [
    "draw_key",
    "loss_gradient",
    "mix_rows",
    "quantize",
    "quantize_gradient",
    "round_step",
    "fraction_to_threshold",
]

_f4, _u4 = np.float32, np.uint32
# Adding and subtracting 1.5 * 2**23 rounds |x| < 2**22 to the nearest whole number, ties to even.
_ROUNDER = np.float32(12582912.0)
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_TINY = np.float32(1e-12)
# Number of values that are summed in float32.
_PART = 2048


def draw_key() -> np.uint32:
    """Draw the key of a kernel's random choices from PyTorch's global generator."""
    return _u4(int(torch.randint(2**32, ())))


def fraction_to_threshold(fraction: float) -> np.uint32:
    """The threshold that ``_hash(...) >> 8`` is below with probability ``fraction``."""
    return _u4(round(fraction * 2**24))


@compiled("uint32(int64, uint32)")
def _hash(index: int, key: np.uint32) -> np.uint32:
    """32 random bits for an index (Wellons' ``lowbias32`` on a Weyl sequence)."""
    bits = _u4(index) * _u4(0x9E3779B1) ^ key
    bits = _u4((bits ^ (bits >> _u4(16))) * _u4(0x7FEB352D))
    bits = _u4((bits ^ (bits >> _u4(15))) * _u4(0x846CA68B))
    return _u4(bits ^ (bits >> _u4(16)))


@compiled()
def quantize(
    x: Floats,
    out: Floats,
    scale: np.float32,
    zero_point: np.float32,
    largest: np.float32,
    threshold: np.uint32,
    key: np.uint32,
) -> None:
    """Quantize values (n,) into ``out``; copy those whose random number is above the threshold."""
    inverse = _ONE / scale
    low, high = -zero_point, largest - zero_point
    for i in range(x.size):
        value = x[i]
        position = min(max(value * inverse, low), high)
        rounded = ((position + _ROUNDER) - _ROUNDER) * scale
        out[i] = rounded if (_hash(i, key) >> _u4(8)) < threshold else value


@compiled(
    "float32(float32[::1], float32[::1], float32[::1], float32[::1], float32, float32, float32)",
    any_order=True,
)
def _quantize_gradient_part(
    gradient: Floats, x: Floats, y: Floats, out: Floats, inverse: Any, low: Any, high: Any
) -> Any:
    total = _ZERO
    for i in range(gradient.size):
        position = x[i] * inverse
        passes = ((position >= low) & (position <= high)) | (x[i] == y[i])
        passed = gradient[i] if passes else _ZERO
        out[i] = passed
        total += gradient[i] * y[i] - passed * x[i]
    return total


@compiled()
def quantize_gradient(
    gradient: Floats,
    x: Floats,
    y: Floats,
    out: Floats,
    scale: np.float32,
    zero_point: np.float32,
    largest: np.float32,
) -> float:
    """Write the gradient of ``quantize`` for x to ``out``, and return that for the scale.

    Values that were copied are those that equal their output y.
    """
    inverse = _ONE / scale
    low, high = -zero_point - _HALF, largest - zero_point + _HALF
    total = 0.0
    for start in range(0, x.size, _PART):
        part = slice(start, start + _PART)
        total += _quantize_gradient_part(
            gradient[part], x[part], y[part], out[part], inverse, low, high
        )
    return total * float(inverse)


@compiled()
def mix_rows(
    first: Floats,
    second: Floats,
    chosen: NDArray[np.int64],
    out: Floats,
    threshold: np.uint32,
    key: np.uint32,
) -> None:
    """``out`` (k, n): chosen rows, each value from ``second`` (N, n) or, at random, ``first``."""
    for k in range(chosen.size):
        one, other, mixed = first[chosen[k]], second[chosen[k]], out[k]
        row_key = _hash(k, key)
        for j in range(mixed.size):
            a, b = one[j], other[j]
            mixed[j] = b if (_hash(j, row_key) >> _u4(8)) < threshold else a


@compiled()
def loss_gradient(
    outputs: Floats, targets: Floats, chosen: NDArray[np.int64], out: Floats, factor: np.float32
) -> None:
    """``out`` (k, n): ``factor * (outputs - chosen rows of targets)``."""
    for k in range(chosen.size):
        output, target, row = outputs[k], targets[chosen[k]], out[k]
        for j in range(row.size):
            row[j] = (output[j] - target[j]) * factor


@compiled("float32(float32[::1], float32[::1])", any_order=True)
def _dot(a: Floats, b: Floats) -> Any:
    total = _ZERO
    for j in range(a.size):
        total += a[j] * b[j]
    return total


@compiled()
def round_step(
    gradient: Floats,
    weight: Floats,
    floor: Floats,
    fraction: Floats,
    first: Floats,
    second: Floats,
    scale: Floats,
    scale_first: Floats,
    scale_second: Floats,
    step: Floats,
    offset: Floats,
    rates: Floats,
    betas: Floats,
    corrections: Floats,
) -> None:
    """Take a step of ``SoftRounding``: matrices (out, n), vectors (out,).

    ``weight``, ``fraction``, ``scale`` and Adam's moments (``first`` and ``second`` of the
    fractions, and those of the scales) are updated in place. ``rates`` (3,) are those of
    ``RoundingRates``, ``betas`` (2,) the decays of the moments, ``corrections`` (2,) their bias
    corrections.
    """
    rate, scale_rate, regularization = rates
    beta1, beta2 = betas
    unbias1, unbias2 = corrections
    for c in range(gradient.shape[0]):
        by_scale = _dot(gradient[c], weight[c])
        scale_first[c] = beta1 * scale_first[c] + (_ONE - beta1) * by_scale
        scale_second[c] = beta2 * scale_second[c] + (_ONE - beta2) * by_scale * by_scale
        direction = scale_first[c] * unbias1 / (np.sqrt(scale_second[c] * unbias2) + _TINY)
        scale[c] *= _ONE - scale_rate * direction
        unit, lowest = step[c] * scale[c], offset[c] * scale[c]
        g, w, f, h, m, v = gradient[c], weight[c], floor[c], fraction[c], first[c], second[c]
        for j in range(g.size):
            m[j] = beta1 * m[j] + (_ONE - beta1) * g[j]
            v[j] = beta2 * v[j] + (_ONE - beta2) * g[j] * g[j]
            direction = m[j] * unbias1 / (np.sqrt(v[j] * unbias2) + _TINY)
            moved = h[j] - rate * (direction - regularization * (h[j] + h[j] - _ONE))
            h[j] = min(max(moved, _ZERO), _ONE)
            w[j] = (f[j] + h[j]) * unit + lowest
