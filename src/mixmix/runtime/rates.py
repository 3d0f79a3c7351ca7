"""Schedules of learning rates."""

from __future__ import annotations

import math

__all__ = ["cosine_decay"]


def cosine_decay(progress: float) -> float:
    """From 1 at progress 0 to 0 at progress 1 (Loshchilov and Hutter 2017, SGDR, eq. 5)."""
    return 0.5 * (1 + math.cos(math.pi * progress))
