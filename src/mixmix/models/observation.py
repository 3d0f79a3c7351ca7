"""Statistics of a batch inside a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

__all__ = ["BatchNormStatistics", "Observation"]


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
