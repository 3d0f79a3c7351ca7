"""How much two outputs differ."""

from __future__ import annotations

from torch import Tensor

__all__ = ["relative_error"]


def relative_error(value: Tensor, reference: Tensor) -> float:
    """``|| value - reference || / || reference ||``."""
    return float((value - reference).norm() / reference.norm().clamp_min(1e-12))
