"""Batches for training a unit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from mixmix.graph.units import channel_axis

__all__ = ["StepSize", "draw_batches", "images_in_step"]

# Fewest images in a step.
_SMALLEST_BATCH = 8


def draw_batches(count: int, batch_size: int, *, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of indices below ``count``, in a new random order for each epoch."""
    order = torch.empty(0, dtype=torch.int64)
    while True:
        while len(order) < batch_size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:batch_size]
        order = order[batch_size:]


class StepSize(Protocol):
    """Limits on the size of a step; see ``ReconstructionSettings``."""

    @property
    def batch_size(self) -> int: ...

    @property
    def max_positions(self) -> int: ...


def images_in_step(inputs: Tensor, outputs: Tensor, settings: StepSize) -> int:
    """Images in a step of a unit with inputs and outputs (N, C, H, W), (N, T, C) or (N, C)."""
    positions = max(math.prod(t.shape[1:]) // t.shape[channel_axis(t)] for t in (inputs, outputs))
    fitting = max(_SMALLEST_BATCH, settings.max_positions // positions)
    return min(settings.batch_size, fitting)
