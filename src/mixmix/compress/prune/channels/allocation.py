"""How many channels each group keeps: the smallest loss increase within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["Cost", "keep_least_increase", "keep_uniform", "kept_options"]

# Of each row of numbers of elements (..., groups): what the network costs, (...,).
Cost = Callable[[np.ndarray], np.ndarray]

# Finer steps than this of a wide layer change little and take long to choose among.
_MAX_OPTIONS = 33


def kept_options(
    num_elements: int, channels_per_element: int, *, round_to: int, min_fraction: float
) -> list[int]:
    """How many elements a group may keep, from all of them downwards.

    Fewer than all leave a multiple of ``round_to`` channels, and at least ``min_fraction`` of them.
    """
    step = round_to // math.gcd(round_to, channels_per_element)
    least = max(1, math.ceil(min_fraction * num_elements - 1e-9))
    fewer = [count for count in range(num_elements - 1, least - 1, -1) if count % step == 0]
    if len(fewer) >= _MAX_OPTIONS:
        places = np.linspace(0, len(fewer) - 1, _MAX_OPTIONS - 1).round().astype(int)
        fewer = [fewer[place] for place in places]
    return [num_elements, *fewer]


def keep_uniform(
    options: Sequence[Sequence[int]],
    increases: Sequence[Sequence[float]],
    cost: Cost,
    limit: float,
) -> list[int] | None:
    """The largest fraction that all groups keep alike, each rounded down to one of its options.

    What rounding leaves of the budget goes to the groups whose loss increase falls most. Arguments
    and result are those of ``keep_least_increase``.
    """
    fractions = sorted({count / own[0] for own in options for count in own}, reverse=True)
    states = [[_at_most(own, fraction * own[0]) for own in options] for fraction in fractions]
    fitting = np.flatnonzero(cost(np.array([_kept(options, state) for state in states])) <= limit)
    if not len(fitting):
        return None
    return _given_back(options, increases, cost, limit, states[fitting[0]])


def keep_least_increase(
    options: Sequence[Sequence[int]],
    increases: Sequence[Sequence[float]],
    cost: Cost,
    limit: float,
    *,
    saved: Cost | None = None,
) -> list[int] | None:
    """Go on removing where the loss increase is smallest for what it saves, until the budget holds.

    Args:
        options: for each group how many elements it may keep, from all of them downwards.
        increases: of each option, not falling; they are taken to add up over groups.
        cost: of what all groups keep.
        limit: of the cost.
        saved: what loss increases are weighed against, if not the cost.

    Returns:
        What each group keeps, or None where the least of all is too much.
    """
    weigh = saved or cost
    state = [0] * len(options)
    moves = [(group, index) for group, own in enumerate(options) for index in range(1, len(own))]
    while float(cost(_kept(options, state))) > limit:
        moves = [(group, index) for group, index in moves if index > state[group]]
        if not moves:
            return None
        rows = np.array([_kept(options, _moved(state, move)) for move in moves])
        savings = float(weigh(_kept(options, state))) - weigh(rows)
        added = np.array(
            [increases[group][index] - increases[group][state[group]] for group, index in moves]
        )
        state = _moved(state, moves[int((added / np.maximum(savings, 1e-12)).argmin())])
    return _given_back(options, increases, cost, limit, state)


def _given_back(
    options: Sequence[Sequence[int]],
    increases: Sequence[Sequence[float]],
    cost: Cost,
    limit: float,
    state: Sequence[int],
) -> list[int]:
    """Undo what the budget does not need, where it lowers the loss most."""
    state = list(state)
    while True:
        moves = [(group, index) for group, now in enumerate(state) for index in range(now)]
        if not moves:
            break
        costs = cost(np.array([_kept(options, _moved(state, move)) for move in moves]))
        gains = np.array(
            [increases[group][state[group]] - increases[group][index] for group, index in moves]
        )
        gains = np.where(costs <= limit, gains, -1.0)
        best = int(gains.argmax())
        if gains[best] < 0:
            break
        state = _moved(state, moves[best])
    return [int(count) for count in _kept(options, state)]


def _at_most(options: Sequence[int], count: float) -> int:
    """Index of the first option that keeps no more, else of the last."""
    fitting = (index for index, own in enumerate(options) if own <= count + 1e-9)
    return next(fitting, len(options) - 1)


def _kept(options: Sequence[Sequence[int]], state: Sequence[int]) -> np.ndarray:
    return np.array([own[index] for own, index in zip(options, state, strict=True)])


def _moved(state: Sequence[int], move: tuple[int, int]) -> list[int]:
    return [move[1] if group == move[0] else index for group, index in enumerate(state)]
