"""Budgets of structured pruning: what fraction of each cost may be left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mixmix.errors import InputError

__all__ = ["Budgeted", "check_budgets", "given_budgets", "in_words"]

_COUNTED = {"max_macs": "MACs", "max_parameters": "parameters", "max_latency": "latency"}


class Budgeted(Protocol):
    """Settings with budgets, each a fraction of the whole network's cost in (0, 1), or None."""

    @property
    def max_macs(self) -> float | None: ...
    @property
    def max_parameters(self) -> float | None: ...
    @property
    def max_latency(self) -> float | None: ...


def given_budgets(settings: Budgeted) -> dict[str, float]:
    """Those that are not None, by name."""
    all_of_them = {name: getattr(settings, name) for name in _COUNTED}
    return {name: budget for name, budget in all_of_them.items() if budget is not None}


def check_budgets(settings: Budgeted) -> None:
    """Refuse settings without a budget, or with one out of range.

    Raises:
        InputError: saying which.
    """
    budgets = given_budgets(settings)
    if not budgets:
        raise InputError(f"give one of {', '.join(_COUNTED)}; got none")
    for name, budget in budgets.items():
        if not 0 < budget < 1:
            raise InputError(f"{name} must be between 0 and 1, got {budget}")


def in_words(budgets: Mapping[str, float]) -> str:
    """Such as ``50% of MACs, 60% of latency``."""
    return ", ".join(f"{budget:.0%} of {_COUNTED[name]}" for name, budget in budgets.items())
