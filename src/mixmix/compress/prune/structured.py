"""Common parts of structured pruning: budgets as fractions of the cost of the whole network."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mixmix.compress.method import Compressed, Method
from mixmix.compress.recover.features import ReconstructFeatures
from mixmix.compress.recover.fine_tuning import FineTune
from mixmix.compress.recover.recover import Recovery, as_recoveries
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.graph.costs import count_macs, count_parameters
from mixmix.graph.masks import refuse_quantized
from mixmix.models.model import normalize
from mixmix.runtime import seeding

__all__ = ["COST_NAMES", "StructuredPruning", "cost_ratios"]

COST_NAMES = {"macs": "MACs", "parameters": "parameters", "latency": "latency"}


@dataclass(frozen=True)
class StructuredPruning(Method, ABC):
    """Base class of methods that remove parts of a network until it meets its budgets.

    At least one budget is needed.

    Attributes:
        max_macs: budget of MACs, as a fraction in (0, 1) of the whole network's.
        max_parameters: budget of parameters, as a fraction of the whole network's.
        max_latency: budget of latency, as a fraction of the whole network's: one image in ONNX
            Runtime on one thread of this machine.
        num_images: images that importance is measured on.
        recovery: one recovery, several to apply in order, or ``()`` for none.

    Raises:
        InputError: if a setting is out of range.
    """

    max_macs: float | None = None
    max_parameters: float | None = None
    max_latency: float | None = None
    num_images: int = 256
    recovery: Recovery | Sequence[Recovery] = field(default=(ReconstructFeatures(), FineTune()))

    def __post_init__(self) -> None:
        if not self.budgets:
            known = ", ".join(f"max_{cost}" for cost in COST_NAMES)
            raise InputError(f"set at least one of {known}; got none")
        self._require_range(*(f"max_{cost}" for cost in self.budgets), low=0, high=1, ends="()")
        if self.num_images < 2:
            raise InputError(f"num_images must be at least 2, got {self.num_images}")
        object.__setattr__(self, "recovery", as_recoveries(self.recovery))

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets that are not None, by keys of ``COST_NAMES``."""
        budgets = {cost: getattr(self, f"max_{cost}") for cost in COST_NAMES}
        return {cost: budget for cost, budget in budgets.items() if budget is not None}

    @property
    def setting(self) -> str:
        """The budgets, such as ``50% of MACs, 60% of latency``."""
        return ", ".join(
            f"{value:.0%} of {COST_NAMES[cost]}" for cost, value in self.budgets.items()
        )

    def _check_prunable(self, model: Compressed) -> None:
        refuse_quantized(model.module, model.spec.name)
        if model.masks:
            raise InputError(
                f"single weights of {model.spec.name} are pruned already, by criteria that change "
                f"with its structure; apply {type(self).__name__} before Prune"
            )

    def _images(self, model: Compressed, data: ImageSet, seed: int, stream: str) -> Tensor:
        """Normalized images to measure on, in random order."""
        order = torch.randperm(len(data), generator=seeding.generator(seed, stream))
        device = next(model.module.parameters()).device
        return normalize(data.images[order[: self.num_images]].to(device), model.spec)


def cost_ratios(
    dense: nn.Module, input_shape: tuple[int, int, int]
) -> Callable[[nn.Module], dict[str, float]]:
    """A function that returns ``macs_ratio`` and ``parameters_ratio`` of a network to ``dense``."""
    macs, parameters = count_macs(dense, input_shape), count_parameters(dense)
    return lambda pruned: {
        "macs_ratio": count_macs(pruned, input_shape) / macs,
        "parameters_ratio": count_parameters(pruned) / parameters,
    }
