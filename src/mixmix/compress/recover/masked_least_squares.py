"""Least squares with masks: each row of weights is fitted on its own support."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["masked_least_squares"]

_TINY = 1e-12


@torch.no_grad()
def masked_least_squares(
    weight: Tensor,
    mask: Tensor,
    gram: Tensor,
    cross: Tensor,
    *,
    ridge: float,
    iterations: int,
) -> Tensor:
    """Minimize, for every row w, ``mean (w x - t)**2 + lambda || w - w0 ||**2`` on its support.

    Conjugate gradients with a diagonal preconditioner (Hestenes & Stiefel 1952), for all rows at
    once, projected onto their supports; no row needs a matrix of its own. With few iterations the
    solution stays closer to ``w0``.

    Args:
        weight: (..., rows, d) initial weights ``w0``.
        mask: (..., rows, d) bool, the supports.
        gram: (..., d, d) mean of ``x x^T``.
        cross: (..., rows, d) mean of ``t x^T``.
        ridge: lambda, relative to the mean of the diagonal of ``gram``.
        iterations: iterations of conjugate gradients.

    Returns:
        (..., rows, d), zero where the mask is False.
    """
    support = mask.to(weight)
    start = weight * support
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    penalty = ridge * diagonal.mean(-1, keepdim=True).unsqueeze(-1)
    inverse = 1 / (diagonal.unsqueeze(-2) + penalty).clamp_min(_TINY)

    solution = start.clone()
    residual = (cross - start @ gram) * support
    direction = residual * inverse
    size = (residual * direction).sum(-1, keepdim=True)
    for _ in range(iterations):
        image = (direction @ gram + penalty * direction) * support
        curvature = (direction * image).sum(-1, keepdim=True)
        step = torch.where(curvature > _TINY, size / curvature.clamp_min(_TINY), 0.0)
        solution += step * direction
        residual -= step * image
        scaled = residual * inverse
        new_size = (residual * scaled).sum(-1, keepdim=True)
        direction = scaled + (new_size / size.clamp_min(_TINY)) * direction
        size = new_size
    return solution
