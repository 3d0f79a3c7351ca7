"""How many channels to keep in each group: the smallest loss increase within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["Cost", "allocate_channels", "width_options"]

# From numbers of kept elements (..., groups) to the cost of the network (...,).
Cost = Callable[[np.ndarray], np.ndarray]

# Finer steps in a wide layer change little and are slow to search.
_MAX_OPTIONS = 33


def width_options(
    num_elements: int, channels_per_element: int, *, round_to: int, min_fraction: float
) -> list[int]:
    """Numbers of elements that a group may keep, in descending order from all of them.

    All but the first are multiples of ``round_to`` channels, and at least ``min_fraction`` of the
    group.
    """
    step = round_to // math.gcd(round_to, channels_per_element)
    least = max(1, math.ceil(min_fraction * num_elements - 1e-9))
    fewer = [count for count in range(num_elements - 1, least - 1, -1) if count % step == 0]
    if len(fewer) >= _MAX_OPTIONS:
        chosen = np.linspace(0, len(fewer) - 1, _MAX_OPTIONS - 1).round().astype(int)
        fewer = [fewer[index] for index in chosen]
    return [num_elements, *fewer]


def allocate_channels(
    options: Sequence[Sequence[int]],
    increases: Sequence[Sequence[float]],
    cost: Cost,
    limit: float,
    *,
    saved: Cost | None = None,
) -> list[int] | None:
    """Remove elements greedily, the smallest loss increase per saved cost first.

    Args:
        options: for each group, the numbers of elements that it may keep, in descending order.
        increases: loss increase of each option, non-decreasing; assumed to add up over groups.
        cost: cost of the network.
        limit: upper bound of the cost.
        saved: savings that loss increases are divided by, if not those of ``cost``.

    Returns:
        The number of elements to keep in each group, or None if the smallest network exceeds the
        limit.
    """
    weigh = saved or cost
    state = [0] * len(options)
    moves = [(group, index) for group, own in enumerate(options) for index in range(1, len(own))]
    while float(cost(_counts(options, state))) > limit:
        moves = [(group, index) for group, index in moves if index > state[group]]
        if not moves:
            return None
        rows = np.array([_counts(options, _moved(state, move)) for move in moves])
        savings = float(weigh(_counts(options, state))) - weigh(rows)
        added = np.array(
            [increases[group][index] - increases[group][state[group]] for group, index in moves]
        )
        state = _moved(state, moves[int((added / np.maximum(savings, 1e-12)).argmin())])
    # Undo what the budget does not need, where it lowers the loss most.
    while True:
        moves = [(group, index) for group, now in enumerate(state) for index in range(now)]
        if not moves:
            break
        costs = cost(np.array([_counts(options, _moved(state, move)) for move in moves]))
        gains = np.array(
            [increases[group][state[group]] - increases[group][index] for group, index in moves]
        )
        gains = np.where(costs <= limit, gains, -1.0)
        best = int(gains.argmax())
        if gains[best] < 0:
            break
        state = _moved(state, moves[best])
    return [int(count) for count in _counts(options, state)]


def _counts(options: Sequence[Sequence[int]], state: Sequence[int]) -> np.ndarray:
    return np.array([own[index] for own, index in zip(options, state, strict=True)])


def _moved(state: Sequence[int], move: tuple[int, int]) -> list[int]:
    return [move[1] if group == move[0] else index for group, index in enumerate(state)]
