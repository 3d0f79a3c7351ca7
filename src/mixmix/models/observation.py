"""Statistics of a batch inside a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["BatchNormStatistics", "Observation", "has_statistics"]


class BatchNormStatistics(NamedTuple):
    """Statistics of the input of one BatchNorm layer, each of shape (channels,)."""

    mean: Tensor
    var: Tensor
    running_mean: Tensor
    running_var: Tensor


@dataclass(frozen=True)
class Observation:
    """Outputs of a network for a batch, and statistics of its layers.

    Attributes:
        logits: (N, K).
        statistics: of every BatchNorm layer, in order of execution.
    """

    logits: Tensor
    statistics: tuple[BatchNormStatistics, ...]


def has_statistics(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm layer with running statistics."""
    return isinstance(module, _BatchNorm) and module.running_mean is not None
