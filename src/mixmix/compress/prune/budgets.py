"""Budgets of structured pruning, as fractions of the cost of the dense network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import nn

from mixmix.errors import InputError
from mixmix.graph.costs import count_macs

__all__ = ["Budgeted", "budget_text", "check_budgets", "cost_ratios", "num_parameters"]

_COSTS = {"max_macs": "MACs", "max_parameters": "parameters", "max_latency": "latency"}


class Budgeted(Protocol):
    """Settings with budgets, each a fraction in (0, 1) or None."""

    @property
    def max_macs(self) -> float | None: ...
    @property
    def max_parameters(self) -> float | None: ...
    @property
    def max_latency(self) -> float | None: ...


def _given(settings: Budgeted) -> dict[str, float]:
    budgets = {name: getattr(settings, name) for name in _COSTS}
    return {name: budget for name, budget in budgets.items() if budget is not None}


def check_budgets(settings: Budgeted) -> None:
    """Raise InputError if no budget is given, or one is not in (0, 1)."""
    budgets = _given(settings)
    if not budgets:
        raise InputError(f"give one of {', '.join(_COSTS)}; got none")
    for name, budget in budgets.items():
        if not 0 < budget < 1:
            raise InputError(f"{name} must be between 0 and 1, got {budget}")


def budget_text(settings: Budgeted) -> str:
    """The budgets as text, such as ``50% of MACs, 60% of latency``."""
    return ", ".join(f"{budget:.0%} of {_COSTS[name]}" for name, budget in _given(settings).items())


def cost_ratios(
    dense: nn.Module, input_shape: tuple[int, int, int]
) -> Callable[[nn.Module], dict[str, float]]:
    """A function that returns ``macs_ratio`` and ``parameters_ratio`` of a network to ``dense``."""
    macs, parameters = count_macs(dense, input_shape), num_parameters(dense)
    return lambda pruned: {
        "macs_ratio": count_macs(pruned, input_shape) / macs,
        "parameters_ratio": num_parameters(pruned) / parameters,
    }


def num_parameters(model: nn.Module) -> int:
    """Number of parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
