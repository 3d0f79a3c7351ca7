"""Channels are shared out within the budget, near the best there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixmix.compress.prune.channels.allocation import allocate_channels, width_options


@st.composite
def problems(
    draw: st.DrawFn,
) -> tuple[list[list[int]], list[list[float]], np.ndarray, float]:
    """Options, increases, the cost of an element of each group, and a limit."""
    sizes = draw(st.lists(st.integers(2, 6), min_size=1, max_size=3))
    options = [list(range(size, 0, -1)) for size in sizes]
    steps = [[draw(st.floats(0, 10)) for _ in own[1:]] for own in options]
    increases = [[0.0, *np.cumsum(own).tolist()] for own in steps]
    costs = np.array([draw(st.integers(1, 9)) for _ in sizes])
    share = draw(st.floats(0, 1))
    return options, increases, costs, share * float(costs @ np.array(sizes))


@given(problems())
def test_budgets_hold_and_are_missed_only_where_nothing_fits(
    problem: tuple[list[list[int]], list[list[float]], np.ndarray, float],
) -> None:
    options, increases, costs, limit = problem

    def cost(kept: np.ndarray) -> np.ndarray:
        return kept @ costs  # type: ignore[no-any-return]

    least = float(cost(np.array([own[-1] for own in options])))
    kept = allocate_channels(options, increases, cost, limit)
    assert (kept is None) == (least > limit)
    if kept is not None:
        assert float(cost(np.array(kept))) <= limit
        # Nothing more fits.
        for index, own in enumerate(options):
            more = list(kept)
            more[index] = min(own[0], more[index] + 1)
            assert more == kept or float(cost(np.array(more))) > limit


def test_the_greedy_way_finds_the_best_where_costs_are_equal_and_increases_convex() -> None:
    rng = np.random.default_rng(0)
    options = [list(range(5, 0, -1)) for _ in range(3)]
    increases = [[0.0, *np.cumsum(np.sort(rng.random(4))).tolist()] for _ in options]

    def cost(kept: np.ndarray) -> np.ndarray:
        return kept.sum(-1)  # type: ignore[no-any-return]

    for limit in range(3, 16):
        best = min(
            sum(own[5 - count] for own, count in zip(increases, kept, strict=True))
            for kept in itertools.product(*options)
            if sum(kept) <= limit
        )
        kept = allocate_channels(options, increases, cost, limit)
        assert kept is not None
        found = sum(own[5 - count] for own, count in zip(increases, kept, strict=True))
        assert found == pytest.approx(best)


def test_loss_increase_is_weighed_against_what_it_saves() -> None:
    options, increases = [[2, 1], [2, 1]], [[0.0, 2.0], [0.0, 1.0]]
    prices = np.array([10.0, 1.0])
    # The first group loses twice as much, and saves ten times as much.
    assert allocate_channels(options, increases, lambda kept: kept @ prices, 21) == [1, 2]
    assert allocate_channels(
        options, increases, lambda kept: kept @ prices, 21, saved=lambda kept: kept.sum(-1)
    ) == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((6, 1, 1, 0.5), [6, 5, 4, 3]),
        ((20, 1, 8, 0.1), [20, 16, 8]),
        ((6, 1, 8, 0.1), [6]),
        ((6, 4, 8, 0.1), [6, 4, 2]),  # elements of four channels
        ((16, 1, 16, 0.1), [16]),
        ((10, 1, 1, 1.0), [10]),
    ],
)
def test_options(arguments: tuple[int, int, int, float], expected: list[int]) -> None:
    size, per_element, round_to, min_fraction = arguments
    options = width_options(size, per_element, round_to=round_to, min_fraction=min_fraction)
    assert options == expected


def test_wide_groups_have_few_options() -> None:
    options = width_options(4096, 1, round_to=8, min_fraction=0.1)
    assert len(options) <= 33
    assert options[0] == 4096 and options[-1] == 416
    assert all(count % 8 == 0 for count in options)
