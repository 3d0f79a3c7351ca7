"""In which order the channels of a group go, and what has been lost after each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RIDGE", "Ranking", "rank_by_scores", "rank_with_compensation"]

# Of the mean variance, that is added to all: weights that could only tell less apart are noise.
RIDGE = 1e-3
# Elements, and fraction of those left, among which the next to go are looked for together.
_CANDIDATES = (32, 0.25)


@dataclass(frozen=True)
class Ranking:
    """The order in which elements of a group go.

    Attributes:
        order: (elements,) numbers of the elements, the first to go first.
        increases: (elements + 1,) of the loss when the first 0, 1, 2, ... of them are removed; they
            do not fall.
    """

    order: Tensor
    increases: Tensor


def rank_by_scores(scores: Tensor) -> Ranking:
    """Elements by score (elements,), the lowest first; what several cost adds up."""
    order = scores.argsort(stable=True)
    return Ranking(order, torch.cat([scores.new_zeros(1), scores[order].cumsum(0)]))


def rank_with_compensation(scores: Tensor, covariance: Tensor) -> Ranking:
    """Elements by what their loss costs if those that are left stand in for them.

    What each layer gives is linear in the channels that it reads, so a channel that others predict
    can be made up for by their weights, and only the fraction of its variance that they do not
    explain is lost. With the Hessian of a layer as a Kronecker product of what enters it and of
    what the loss asks of its outputs, that fraction is the ratio of the costs of removing an input
    with and without adapting the others: ``1 / (C_jj [C^-1]_jj)`` (Optimal Brain Surgeon, Hassibi &
    Stork 1993, eq. 5, for a whole column; Kurtic et al. 2023, "ZipLM"). The element of least cost
    goes, and the fractions of all others rise with it, until none is left.

    Args:
        scores: (elements,) the cost of losing each alone, if nothing is adapted.
        covariance: (elements, elements) of what is read of them.

    Returns:
        The order, and what is lost given those that are left by then, in units of the scores.
    """
    wanted = scores.cpu().double()
    covariance = covariance.cpu().double()
    ridge = RIDGE * covariance.diagonal().mean().clamp_min(1e-30)
    covariance = covariance + ridge * torch.eye(len(covariance), dtype=torch.float64)
    order = _order(wanted, covariance)
    # Going backwards, those that are left become more: row i of the Cholesky factor holds what of
    # the variance of element i each element before it adds to what the others explain.
    back = order.flip(0)
    factor = torch.linalg.cholesky(covariance[back][:, back])
    explained = factor.square().cumsum(1)
    variance = covariance.diagonal()[back]
    lost = wanted[back, None] * (1 - explained / variance[:, None]).clamp(0, 1)
    kept_by = torch.arange(len(back))
    gone = lost.masked_fill(kept_by[:, None] <= kept_by, 0.0).sum(0).flip(0)
    increases = torch.cat([gone, wanted.sum()[None]])
    return Ranking(order, increases.cummax(0).values.float())


def _order(scores: Tensor, covariance: Tensor) -> Tensor:
    """Elements in the order in which the cheapest goes, given those that went before.

    Costs only rise as others go. So the cheapest of a few candidates is the cheapest of all until
    it costs more than the cheapest of the rest did, and the inverse of what is left is brought up
    to date only then.
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
        places, limit = ranked.indices[:count], ranked.values[count : count + 1]
        inverse = precision[places][:, places]
        going: list[int] = []
        while len(going) < len(places):
            costs = cost(inverse, left[places])
            costs[going] = torch.inf
            cheapest = int(costs.argmin())
            if going and len(limit) and costs[cheapest] > limit:
                break
            going.append(cheapest)
            row = inverse[cheapest] / inverse[cheapest, cheapest]
            inverse = inverse - torch.outer(inverse[:, cheapest], row)
            # What is gone is not looked at again, and must not divide by zero.
            inverse[cheapest, cheapest] = 1.0
        gone = places[going]
        order += left[gone].tolist()
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[gone] = False
        across = precision[stays][:, gone]
        inner = torch.linalg.solve(precision[gone][:, gone], across.T)
        precision = precision[stays][:, stays] - across @ inner
        left = left[stays]
    return torch.tensor(order)
