"""The latents that images of a generator begin at: one of many for each, and they learn."""

from __future__ import annotations

import torch
from torch import Tensor

from mixmix.models.zoo import Zoo
from mixmix.runtime import seeding
from mixmix.synthesis.initial import balanced_labels

__all__ = ["LatentBank"]

# Of the variance of a latent, what is common to its class at first; and the noise around it.
_CLASS_SHARE = 0.5
_NOISE = 0.3


class LatentBank:
    """Latents (count, size), each of a class.

    Args:
        zoo: gives the classes, over which latents are balanced, and the device.
        count: of latents.
        size: numbers in each.
        seed: of their first values.

    Attributes:
        values: (count, size) on the device of the zoo.
        labels: (count,) on the CPU.
    """

    def __init__(self, zoo: Zoo, count: int, size: int, *, seed: int) -> None:
        self.labels = balanced_labels(count, zoo.num_classes)
        draws = seeding.generator(seed, "latents")
        of_class = torch.randn(max(1, zoo.num_classes), size, generator=draws)[self.labels]
        own = torch.randn(count, size, generator=draws)
        values = _CLASS_SHARE**0.5 * of_class + (1 - _CLASS_SHARE) ** 0.5 * own
        self.values = values.to(zoo.device)

    def __len__(self) -> int:
        return len(self.labels)

    def near(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Latents (N, size) around those of the indices ``chosen`` (N,), to be optimized."""
        noise = torch.randn(len(chosen), self.values.shape[1], generator=generator)
        device = self.values.device
        latents: Tensor = self.values[chosen.to(device)] + _NOISE * noise.to(device)
        return latents.requires_grad_(True)

    @torch.no_grad()
    def move(self, chosen: Tensor, goals: Tensor, rate: float) -> None:
        """Move those of the indices ``chosen`` (N,) by ``rate`` of the way to goals (N, size)."""
        index = chosen.to(self.values.device)
        self.values[index] = self.values[index].lerp(goals, rate)
