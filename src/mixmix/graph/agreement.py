"""How much two outputs differ."""

from __future__ import annotations

from torch import Tensor

__all__ = ["output_error", "relative_error"]

# Rounding errors are relative to the outputs themselves, which may differ little between images.
_LEAST_SPREAD = 0.05


def output_error(outputs: Tensor, reference: Tensor) -> float:
    """Error of outputs (N, ...), over what differs between the reference's images.

    What all images share, such as a bias of 100, says nothing about a network and would hide an
    error. The spread is at least a twentieth of the outputs.
    """
    spread = (reference - reference.mean(0, keepdim=True)).norm()
    least = (_LEAST_SPREAD * reference.norm()).clamp_min(1e-12)
    return float((outputs - reference).norm() / spread.clamp_min(least))


def relative_error(value: Tensor, reference: Tensor) -> float:
    """``|| value - reference || / || reference ||``."""
    return float((value - reference).norm() / reference.norm().clamp_min(1e-12))
