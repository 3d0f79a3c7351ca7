"""How many weights each layer keeps, so that all layers together keep a fraction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = [
    "ALLOCATIONS",
    "allocate_by_increase",
    "allocate_by_rank",
    "allocate_evenly",
    "lamp_scores",
]

ALLOCATIONS = ("global", "uniform", "lamp", "sqrt-lamp", "sensitivity")
_NUM_BISECTIONS = 100
_TINY = 1e-30


def allocate_evenly(sizes: Mapping[str, int], density: float) -> dict[str, int]:
    """The same fraction of each layer's weights."""
    return {name: max(1, round(density * size)) for name, size in sizes.items()}


def allocate_by_rank(scores: Mapping[str, Tensor], density: float) -> dict[str, int]:
    """How many of each layer's weights are among the best of all layers.

    Args:
        scores: (out, d) for each layer, comparable between layers. The best of each output come
            first, so that no layer is left without weights.
        density: fraction of the weights that are kept.
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
    """Scores (any shape) relative to what is left of a layer when only larger ones are.

    Lee et al. 2021, Layer-adaptive sparsity for the magnitude-based pruning, eq. 2:
    ``s_u**2 / sum of s_v**2 over all v with s_v >= s_u``. The sum is raised to ``power``: 0 ranks
    the scores themselves, and 0.5 is the geometric mean of both.
    """
    squares = (
        scores.flatten().double().square()
        if scores.device.type != "mps"
        else (scores.flatten().square())
    )
    order = squares.argsort()
    remaining = squares[order].flip(0).cumsum(0).flip(0).clamp_min(_TINY)
    result = torch.empty_like(squares)
    result[order] = squares[order] / remaining**power
    return result.view(scores.shape).float()


def allocate_by_increase(
    increases: Mapping[str, Sequence[float]],
    densities: Sequence[float],
    sizes: Mapping[str, int],
    density: float,
) -> dict[str, int]:
    """The numbers of smallest loss increase, where the increases of layers add up.

    Between the densities at which it was measured the logarithm of the increase is taken to be
    linear. Each layer then minimizes its increase plus a price for every weight that it keeps, the
    same for all; the price that the budget asks for is found by bisection.

    Args:
        increases: of each layer, for each of the densities, >= 0.
        densities: falling, the first being 1.
        sizes: numbers of weights.
        density: fraction of the weights that are kept.
    """
    levels = torch.linspace(densities[0], densities[-1], 201, dtype=torch.float64)
    curves = {name: _interpolated(levels, densities, values) for name, values in increases.items()}
    budget = round(density * sum(sizes.values()))

    def counts(log_price: float) -> dict[str, int]:
        price = math.exp(log_price)
        best = {n: int((c + price * levels * sizes[n]).argmin()) for n, c in curves.items()}
        return {n: max(1, round(float(levels[i]) * sizes[n])) for n, i in best.items()}

    low, high = math.log(1e-20), math.log(1e6)
    for _ in range(_NUM_BISECTIONS):
        middle = (low + high) / 2
        too_many = sum(counts(middle).values()) > budget
        low, high = (middle, high) if too_many else (low, middle)
    chosen, dearer = counts(high), counts(low)
    # At one price some layers jump; what their next choice would keep fills the budget.
    rest = budget - sum(chosen.values())
    for name in chosen:
        more = max(0, min(rest, dearer[name] - chosen[name]))
        chosen[name] += more
        rest -= more
    return chosen


def _interpolated(levels: Tensor, densities: Sequence[float], increases: Sequence[float]) -> Tensor:
    """Increase at each level, rising as the density falls."""
    points = torch.tensor(densities, dtype=torch.float64).flip(0)
    values = torch.tensor(increases, dtype=torch.float64).cummax(0).values.flip(0)
    logs = (values + 1e-9).log()
    right = torch.searchsorted(points, levels).clamp(1, len(points) - 1)
    fraction = ((levels - points[right - 1]) / (points[right] - points[right - 1])).clamp(0, 1)
    return (logs[right - 1] * (1 - fraction) + logs[right] * fraction).exp()
