"""Compiled loops over activations, one pass each.

Activations are tables with channels innermost (NHWC). A row holds several pixels, to fill vector
units where channels are few; arguments per channel are repeated to its width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mixmix.runtime.compiled import Floats, compiled

__all__ = ["backward", "forward"]

# Rows that are summed in single precision; the sums of blocks are added in double precision.
_BLOCK = 256


@compiled()
def forward(
    z: Floats,
    mean: Floats,
    scale: Floats,
    shift: Floats,
    low: Any,
    high: Any,
    y: Floats,
    shortcut: Floats | None,
) -> tuple[Any, Any]:
    """``y = clamp(scale * (z - mean) + shift + shortcut)``; None adds nothing.

    Args:
        z: (rows, width), and y and shortcut likewise.
        mean: (width,), and scale and shift likewise.
        low: lower bound of y.
        high: upper bound of y.

    Returns:
        By column, sums of ``z - mean`` and of its square: two arrays (width,) in double precision.
    """
    rows, width = z.shape
    total, total_square = np.zeros(width), np.zeros(width)
    for first in range(0, rows, _BLOCK):
        sums, squares = np.zeros(width, np.float32), np.zeros(width, np.float32)
        for i in range(first, min(first + _BLOCK, rows)):
            for j in range(width):
                deviation = z[i, j] - mean[j]
                sums[j] += deviation
                squares[j] += deviation * deviation
                value = scale[j] * deviation + shift[j]
                if shortcut is not None:
                    value += shortcut[i, j]
                value = low if value < low else value
                y[i, j] = high if value > high else value
        total += sums
        total_square += squares
    return total, total_square


@compiled()
def backward(
    grad: Floats,
    z: Floats,
    y: Floats | None,
    mean: Floats,
    scale: Floats,
    shift: Floats,
    slope: Floats,
    offset: Floats,
    low: Any,
    high: Any,
    grad_z: Floats,
    grad_shortcut: Floats | None,
) -> None:
    """``grad_z = scale * g + slope * z + offset``, where g is ``grad``, or 0 where y was clamped.

    Without a shortcut, y is computed again, which costs less than reading it (y is None). The
    gradient of a shortcut is g.
    """
    rows, width = z.shape
    for i in range(rows):
        for j in range(width):
            value = scale[j] * (z[i, j] - mean[j]) + shift[j]
            if y is not None:
                value = y[i, j]
            passed = grad[i, j] if value > low else np.float32(0)
            passed = passed if value < high else np.float32(0)
            if grad_shortcut is not None:
                grad_shortcut[i, j] = passed
            grad_z[i, j] = scale[j] * passed + (slope[j] * z[i, j] + offset[j])
