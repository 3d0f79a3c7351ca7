"""Compiled loops over activations, each one pass.

Activations are tables with channels innermost (NHWC). A pixel's ``C`` values may be fewer than what
a vector unit wants, so a row of a table holds several pixels, and the arguments per channel are
repeated to its length.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mixmix.runtime.compiled import Floats, compiled

__all__ = ["backward", "backward_joined", "forward", "forward_joined"]

# Sums run in single precision over so many rows, and over such blocks in double precision.
_BLOCK = 256


@compiled()
def forward(
    z: Floats, mean: Floats, scale: Floats, shift: Floats, low: Any, high: Any, y: Floats
) -> tuple[Any, Any]:
    """``y = clamp(scale * (z - mean) + shift)``.

    Args:
        z: (rows, width), and y likewise.
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
                value = low if value < low else value
                y[i, j] = high if value > high else value
        total += sums
        total_square += squares
    return total, total_square


@compiled()
def forward_joined(
    z: Floats,
    mean: Floats,
    scale: Floats,
    shift: Floats,
    low: Any,
    high: Any,
    y: Floats,
    shortcut: Floats,
) -> tuple[Any, Any]:
    """As ``forward``, of ``scale * (z - mean) + shift + shortcut``."""
    rows, width = z.shape
    total, total_square = np.zeros(width), np.zeros(width)
    for first in range(0, rows, _BLOCK):
        sums, squares = np.zeros(width, np.float32), np.zeros(width, np.float32)
        for i in range(first, min(first + _BLOCK, rows)):
            for j in range(width):
                deviation = z[i, j] - mean[j]
                sums[j] += deviation
                squares[j] += deviation * deviation
                value = scale[j] * deviation + shift[j] + shortcut[i, j]
                value = low if value < low else value
                y[i, j] = high if value > high else value
        total += sums
        total_square += squares
    return total, total_square


@compiled()
def backward(
    grad: Floats,
    z: Floats,
    mean: Floats,
    scale: Floats,
    shift: Floats,
    slope: Floats,
    offset: Floats,
    low: Any,
    high: Any,
    grad_z: Floats,
) -> None:
    """``grad_z = scale * grad + slope * z + offset``, without ``grad`` where y was clamped.

    Computing y again costs less than reading it.
    """
    rows, width = z.shape
    for i in range(rows):
        for j in range(width):
            y = scale[j] * (z[i, j] - mean[j]) + shift[j]
            passed = grad[i, j] if y > low else np.float32(0)
            passed = passed if y < high else np.float32(0)
            grad_z[i, j] = scale[j] * passed + (slope[j] * z[i, j] + offset[j])


@compiled()
def backward_joined(
    grad: Floats,
    z: Floats,
    y: Floats,
    scale: Floats,
    slope: Floats,
    offset: Floats,
    low: Any,
    high: Any,
    grad_z: Floats,
    grad_shortcut: Floats,
) -> None:
    """As ``backward``; the shortcut's gradient is ``grad`` where y was not clamped."""
    rows, width = z.shape
    for i in range(rows):
        for j in range(width):
            passed = grad[i, j] if y[i, j] > low else np.float32(0)
            passed = passed if y[i, j] < high else np.float32(0)
            grad_shortcut[i, j] = passed
            grad_z[i, j] = scale[j] * passed + (slope[j] * z[i, j] + offset[j])
