"""Choose the bits of each layer by integer programming over a table of sensitivities.

Yao et al. 2021, HAWQ-V3, section 3.4, with measured divergences instead of the trace of the
Hessian.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mixmix.compress.quantize.bits import parse_bits
from mixmix.compress.quantize.sensitivity_table import LayerSensitivity, SensitivityTable
from mixmix.errors import InputError

__all__ = ["Budget", "allocate_bits"]

# HiGHS has an absolute tolerance of 1e-6, so that objective and costs are scaled up.
_LARGEST_INCREASE = 1e4
_LARGEST_COST = 1e6


@dataclass(frozen=True)
class Budget:
    """Limit on the size or the bit operations of a network; exactly one must be given.

    Attributes:
        max_size_ratio: size relative to all parameters in float32, in (0, 1]: 3/32 is about 3 bits.
        max_size_bytes: size in bytes as counted by ``SensitivityTable.size_bytes``.
        max_bitops_ratio: bit operations relative to 32 x 32 bits for each MAC, in (0, 1], the
            reference of Bayesian Bits (van Baalen et al. 2020): W8A8 everywhere is 1/16, W4A4 1/64.
    """

    max_size_ratio: float | None = None
    max_size_bytes: int | None = None
    max_bitops_ratio: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise InputError(
                f"set exactly one of {', '.join(vars(self))}; got {', '.join(given) or 'none'}"
            )
        ((name, value),) = given.items()
        largest = 1 if name.endswith("ratio") else math.inf
        if not 0 < value <= largest:
            raise InputError(
                f"{name} must be above 0{' and at most 1' if largest == 1 else ''}, got {value}"
            )

    @property
    def is_size(self) -> bool:
        return self.max_bitops_ratio is None

    def limit(self, table: SensitivityTable) -> int:
        """The limit in bytes, or in bit operations, for a network."""
        if self.max_bitops_ratio is not None:
            return math.floor(self.max_bitops_ratio * table.float_bitops)
        if self.max_size_ratio is not None:
            return math.floor(self.max_size_ratio * table.float_size_bytes)
        assert self.max_size_bytes is not None
        return math.floor(self.max_size_bytes)


def allocate_bits(table: SensitivityTable, budget: Budget) -> dict[str, str]:
    """Choose the bits of every layer that minimize the divergence within a budget.

    The objective is ``SensitivityTable.divergence``, which assumes that the increases of layers,
    measured one at a time, are additive; this holds approximately while they are small.

    Returns:
        Bits such as ``W4A8`` by layer name. Layers that share an input have equal activation bits.
        The budget is never exceeded.

    Raises:
        InputError: if even the fewest bits exceed the budget; the message states what they need.
    """
    cheapest = _cheapest_bits(table, budget)
    _check_feasible(table, budget, cheapest)
    options = [(layer, bits) for layer in table.layers for bits in layer.divergence]
    increases = np.array([layer.divergence[bits] for layer, bits in options])
    costs = np.array([_layer_cost(layer, bits, budget) for layer, bits in options])
    limit = budget.limit(table)
    available = limit * 8 - table.floats_size_bits if budget.is_size else limit
    equalities = _equalities(table, options)
    tightened = available
    while True:
        chosen = _solve(increases, costs, tightened, equalities)
        if chosen is None:
            return cheapest
        excess = int(costs[chosen].sum()) - available
        if excess <= 0:
            return {options[index][0].name: options[index][1] for index in chosen}
        # The solver has a tolerance: subtract the excess from its limit.
        tightened -= excess


def _layer_cost(layer: LayerSensitivity, bits: str, budget: Budget) -> int:
    return layer.weight_size_bits(bits) if budget.is_size else layer.bitops(bits)


def _check_feasible(table: SensitivityTable, budget: Budget, cheapest: Mapping[str, str]) -> None:
    if budget.is_size:
        needed, reference, unit = table.size_bytes(cheapest), table.float_size_bytes, "bytes"
    else:
        needed, reference, unit = table.bitops(cheapest), table.float_bitops, "BitOps"
    limit = budget.limit(table)
    if needed > limit:
        # Round up, so that the ratio in the message is feasible.
        ratio = math.ceil(1e4 * needed / reference) / 1e4
        raise InputError(
            f"no choice of bits fits into {limit:,} {unit}: {table.model} needs at least "
            f"{needed:,}, a ratio of {ratio:.4f}; raise the budget or offer choices of fewer bits"
        )


def _cheapest_bits(table: SensitivityTable, budget: Budget) -> dict[str, str]:
    """The choice of least cost with equal activation bits for layers that share an input."""
    bits_of_layer: dict[str, str] = {}
    for group in dict.fromkeys(layer.input_group for layer in table.layers):
        members = [layer for layer in table.layers if layer.input_group == group]
        common = set.intersection(*({parse_bits(b)[1] for b in m.divergence} for m in members))
        if not common:
            raise InputError(
                f"{', '.join(member.name for member in members)} share an input, but no number of "
                "activation bits is among the choices of all of them"
            )
        candidates = [
            {
                member.name: min(
                    (bits for bits in member.divergence if parse_bits(bits)[1] == activation_bits),
                    key=partial(_layer_cost, member, budget=budget),
                )
                for member in members
            }
            for activation_bits in sorted(common)
        ]
        bits_of_layer |= min(
            candidates, key=lambda c: sum(_layer_cost(m, c[m.name], budget) for m in members)
        )
    return bits_of_layer


def _equalities(
    table: SensitivityTable, options: Sequence[tuple[LayerSensitivity, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Constraints: one option for each layer, and equal activation bits within a group.

    The variables are the options, then one for each pair of a group and its activation bits.

    Returns:
        A matrix (constraints, variables), and the values (constraints,) of its product with them.
    """
    pairs = dict.fromkeys((layer.input_group, parse_bits(bits)[1]) for layer, bits in options)
    num_variables = len(options) + len(pairs)
    rows: list[np.ndarray] = []
    targets: list[float] = []
    for layer in table.layers:
        own = np.array([other is layer for other, _ in options])
        rows.append(np.concatenate([own, np.zeros(len(pairs))]))
        targets.append(1)
        for index, (group, activation_bits) in enumerate(pairs):
            if group == layer.input_group:
                row = np.zeros(num_variables)
                row[: len(options)] = own & np.array(
                    [parse_bits(bits)[1] == activation_bits for _, bits in options]
                )
                row[len(options) + index] = -1
                rows.append(row)
                targets.append(0)
    return np.stack(rows), np.array(targets)


def _solve(
    increases: np.ndarray,
    costs: np.ndarray,
    available: int,
    equalities: tuple[np.ndarray, np.ndarray],
) -> list[int] | None:
    """Indices of the chosen options, or None if no choice fits."""
    # Slow to import, and rarely needed.
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    matrix, targets = equalities
    num_variables = matrix.shape[1]
    padding = np.zeros(num_variables - len(increases))
    # Whole numbers that are not too large suit the tolerance of the solver.
    unit = max(np.gcd.reduce(costs), costs.max() / _LARGEST_COST, 1)
    result = milp(
        np.concatenate([increases * (_LARGEST_INCREASE / max(increases.max(), 1e-300)), padding]),
        integrality=np.ones(num_variables),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(csr_array(matrix), targets, targets),
            LinearConstraint(np.concatenate([costs / unit, padding])[None], ub=available / unit),
        ],
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        return None
    return [int(index) for index in np.flatnonzero(result.x[: len(increases)] > 0.5)]
