"""How many weights to keep in each layer, by one threshold for the scores of all layers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["ALLOCATIONS", "allocate_by_rank", "lamp_scores"]

ALLOCATIONS = ("global", "lamp", "sqrt-lamp")
_TINY = 1e-30


def allocate_by_rank(scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
    """How many of each layer's weights are among the highest scores of all layers.

    Args:
        scores: (out, d) for each layer, comparable between layers. The highest score of each
            output always counts, so that no layer is left without weights.
        density: fraction of the weights to keep.
    """
    ranked = {name: score.flatten().clone() for name, score in scores.items()}
    for name, score in scores.items():
        ranked[name][score.flatten().topk(len(score)).indices] = math.inf
    every = torch.cat(list(ranked.values()))
    chosen = every.topk(max(1, round(density * len(every)))).indices
    owner = torch.repeat_interleave(
        torch.arange(len(ranked)), torch.tensor([len(score) for score in ranked.values()])
    )
    counts = owner.to(chosen.device)[chosen].bincount(minlength=len(ranked)).tolist()
    return {name: max(1, count) for name, count in zip(ranked, counts, strict=True)}


def lamp_scores(scores: Tensor, *, power: float = 1.0) -> Tensor:
    """Scores relative to the sum of the layer's larger ones.

    Lee et al. 2021, Layer-adaptive sparsity for the magnitude-based pruning, eq. 2:
    ``s_u**2 / sum of s_v**2 over all v with s_v >= s_u``. The sum is raised to ``power``: 0 ranks
    by the scores themselves, and 0.5 by the geometric mean of both.
    """
    squares = scores.flatten()
    if squares.device.type != "mps":  # which has no double precision
        squares = squares.double()
    squares = squares.square()
    order = squares.argsort()
    remaining = squares[order].flip(0).cumsum(0).flip(0).clamp_min(_TINY)
    result = torch.empty_like(squares)
    result[order] = squares[order] / remaining**power
    return result.view(scores.shape).float()
