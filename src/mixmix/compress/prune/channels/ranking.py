"""Order in which the channels of a group are pruned, and the loss increase after each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RIDGE", "Ranking", "rank_by_scores", "rank_with_compensation"]

# Relative to the mean variance: finer differences between channels are noise.
RIDGE = 1e-3
# Number of candidates among which the next elements are chosen: at least, and as a fraction.
_CANDIDATES = (32, 0.25)


@dataclass(frozen=True)
class Ranking:
    """Pruning order of the elements of a group.

    Attributes:
        order: (elements,) indices of the elements; the first is pruned first.
        increases: (elements + 1,) loss increase when the first 0, 1, 2, ... elements are pruned,
            non-decreasing.
    """

    order: Tensor
    increases: Tensor


def rank_by_scores(scores: Tensor) -> Ranking:
    """Rank elements by score (elements,), the lowest first; loss increases add up."""
    order = scores.argsort(stable=True)
    return Ranking(order, torch.cat([scores.new_zeros(1), scores[order].cumsum(0)]))


def rank_with_compensation(scores: Tensor, covariance: Tensor) -> Ranking:
    """Rank elements by their loss increase if the weights of the others compensate.

    A layer is linear in its input channels, so its other weights can make up for a channel as far
    as the other channels predict it: only the unexplained fraction of its variance is lost. With
    the Hessian of a layer as a Kronecker product of an input and an output factor, that fraction is
    the ratio of the costs of removing an input with and without adapting the others,
    ``1 / (C_jj [C^-1]_jj)`` (Optimal Brain Surgeon, Hassibi & Stork 1993, eq. 5, for a whole
    column; Kurtic et al. 2023, "ZipLM"). The cheapest element is pruned, which raises the fractions
    of the others, until none is left.

    Args:
        scores: (elements,) loss increase of pruning each alone, without compensation.
        covariance: (elements, elements) of the channels as layers read them.

    Returns:
        The order, and loss increases in the unit of the scores.
    """
    scores = scores.cpu().double()
    covariance = covariance.cpu().double()
    ridge = RIDGE * covariance.diagonal().mean().clamp_min(1e-30)
    covariance = covariance + ridge * torch.eye(len(covariance), dtype=torch.float64)
    order = _order(scores, covariance)
    # In reverse order elements are added: row i of the Cholesky factor holds the variance of
    # element i that each element before it explains beyond the others.
    back = order.flip(0)
    factor = torch.linalg.cholesky(covariance[back][:, back])
    explained = factor.square().cumsum(1)
    variance = covariance.diagonal()[back]
    lost = scores[back, None] * (1 - explained / variance[:, None]).clamp(0, 1)
    index = torch.arange(len(back))
    increases = lost.masked_fill(index[:, None] <= index, 0.0).sum(0).flip(0)
    increases = torch.cat([increases, scores.sum()[None]])
    return Ranking(order, increases.cummax(0).values.float())


def _order(scores: Tensor, covariance: Tensor) -> Tensor:
    """The pruning order: always the cheapest element, given those pruned before.

    Costs only rise as elements are pruned. Hence the cheapest of a few candidates is the cheapest
    of all until its cost exceeds the lowest cost of the rest; only then is the inverse updated.
    """
    precision = torch.linalg.inv(covariance)
    variance = covariance.diagonal()
    left = torch.arange(len(scores))
    order: list[int] = []

    def cost(inverse: Tensor, of: Tensor) -> Tensor:
        return scores[of] / (inverse.diagonal() * variance[of]).clamp_min(1.0)

    while len(left):
        ranked = cost(precision, left).sort(stable=True)
        count = max(_CANDIDATES[0], int(_CANDIDATES[1] * len(left)))
        candidates, limit = ranked.indices[:count], ranked.values[count : count + 1]
        inverse = precision[candidates][:, candidates]
        chosen: list[int] = []
        while len(chosen) < len(candidates):
            costs = cost(inverse, left[candidates])
            costs[chosen] = torch.inf
            cheapest = int(costs.argmin())
            if chosen and len(limit) and costs[cheapest] > limit:
                break
            chosen.append(cheapest)
            row = inverse[cheapest] / inverse[cheapest, cheapest]
            inverse = inverse - torch.outer(inverse[:, cheapest], row)
            inverse[cheapest, cheapest] = 1.0  # avoids division by zero; not read otherwise
        pruned = candidates[chosen]
        order += left[pruned].tolist()
        remains = torch.ones(len(left), dtype=torch.bool)
        remains[pruned] = False
        across = precision[remains][:, pruned]
        inner = torch.linalg.solve(precision[pruned][:, pruned], across.T)
        precision = precision[remains][:, remains] - across @ inner
        left = left[remains]
    return torch.tensor(order)
