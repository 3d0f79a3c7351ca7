"""The order of channels, and what is lost, against direct solutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixmix.compress.prune.channels.ranking import (
    Ranking,
    rank_by_scores,
    rank_with_compensation,
)


def random_problem(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores, and the covariance of channels that partly repeat each other."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(count, count // 2, generator=generator, dtype=torch.float64)
    noise = torch.rand(count, generator=generator, dtype=torch.float64)
    scores = torch.rand(count, generator=generator) + 0.1
    return scores, factors @ factors.T / count + 0.1 * noise.diag()


def lost(scores: Tensor, covariance: Tensor, kept: list[int]) -> float:
    """What all that is gone costs, each by the share of its variance that is left unexplained."""
    covariance = covariance + 1e-3 * covariance.diagonal().mean() * torch.eye(
        len(scores), dtype=torch.float64
    )
    total = 0.0
    for gone in set(range(len(scores))) - set(kept):
        across = covariance[kept, gone]
        explained = across @ torch.linalg.solve(covariance[kept][:, kept], across)
        total += float(scores[gone] * (1 - explained / covariance[gone, gone]))
    return total


def in_turn(scores: Tensor, covariance: Tensor) -> list[int]:
    """The order, one after another, from the definition."""
    kept = list(range(len(scores)))
    order = []
    while kept:

        def cost(element: int) -> float:
            rest = [other for other in kept if other != element]
            among = torch.tensor([*rest, element])
            own = covariance[among][:, among]
            place = torch.arange(len(among))[:-1].tolist()
            return lost(scores[among], own, place)

        cheapest = min(kept, key=cost)
        order.append(cheapest)
        kept.remove(cheapest)
    return order


def test_scores_alone_add_up() -> None:
    ranking = rank_by_scores(torch.tensor([3.0, 1.0, 2.0]))
    assert ranking.order.tolist() == [1, 2, 0]
    assert ranking.increases.tolist() == [0, 1, 3, 6]


def test_loss_increases_are_what_those_left_do_not_explain() -> None:
    scores, covariance = random_problem(12)
    ranking = rank_with_compensation(scores, covariance)
    for gone in range(12):
        kept = ranking.order[gone:].tolist()
        expected = lost(scores, covariance, kept)
        assert float(ranking.increases[gone]) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert float(ranking.increases[12]) == pytest.approx(float(scores.sum()))


@pytest.mark.parametrize("count", [8, 50])
def test_the_cheapest_goes_given_those_that_went(count: int) -> None:
    scores, covariance = random_problem(count, seed=count)
    # What is added to variances is relative to the mean of those that are there.
    covariance = covariance / covariance.diagonal().sqrt().outer(covariance.diagonal().sqrt())
    assert rank_with_compensation(scores, covariance).order.tolist() == in_turn(scores, covariance)


def test_one_of_two_channels_that_say_the_same_goes_for_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    channels = torch.randn(4, 5000, generator=generator, dtype=torch.float64)
    channels[2] = 3 * channels[0]
    scores = torch.tensor([5.0, 1.0, 5.0, 1.0])
    ranking = rank_with_compensation(scores, channels.cov())
    assert int(ranking.order[0]) in (0, 2)
    assert float(ranking.increases[1]) < 0.02
    # The other costs what both did.
    assert set(ranking.order[1:3].tolist()) == {1, 3}
    assert float(ranking.increases[4]) == pytest.approx(12.0)


def test_independent_channels_go_by_their_scores() -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, 4.0])
    ranking = rank_with_compensation(scores, torch.eye(4, dtype=torch.float64))
    assert ranking.order.tolist() == [1, 2, 0, 3]
    torch.testing.assert_close(ranking.increases, torch.tensor([0.0, 1, 3, 6, 10]))


@pytest.mark.parametrize("covariance", [torch.zeros(5, 5), torch.ones(5, 5)])
def test_channels_that_are_silent_or_all_the_same_are_ranked(covariance: Tensor) -> None:
    ranking: Ranking = rank_with_compensation(torch.ones(5), covariance)
    assert sorted(ranking.order.tolist()) == list(range(5))
    assert bool(ranking.increases.isfinite().all()) and bool((ranking.increases.diff() >= 0).all())
