"""Schedules of learning rates."""

from __future__ import annotations

import math

__all__ = ["cosine_decay"]


def cosine_decay(progress: float) -> float:
    """From 1 at the start to 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * progress))
