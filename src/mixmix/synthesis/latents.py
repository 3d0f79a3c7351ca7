"""The stored latents of amortized synthesis, which are optimized along with the generator."""

from __future__ import annotations

import torch
from torch import Tensor

from mixmix.models.zoo import Zoo
from mixmix.runtime import seeding
from mixmix.synthesis.initial import balanced_labels

__all__ = ["LatentBank"]

# Fraction of the initial variance that is common to a class.
_CLASS_FRACTION = 0.5
# Standard deviation of the noise added in each round.
_NOISE = 0.3


class LatentBank:
    """Latents (count, size), balanced over classes.

    Args:
        zoo: defines the classes and the device.
        count: number of latents.
        size: size of a latent.
        seed: seed of the initial values.

    Attributes:
        values: (count, size) on the device of the zoo.
        labels: (count,) on the CPU.
    """

    def __init__(self, zoo: Zoo, count: int, size: int, *, seed: int) -> None:
        self.labels = balanced_labels(count, zoo.num_classes)
        draws = seeding.generator(seed, "latents")
        of_class = torch.randn(max(1, zoo.num_classes), size, generator=draws)[self.labels]
        own = torch.randn(count, size, generator=draws)
        values = _CLASS_FRACTION**0.5 * of_class + (1 - _CLASS_FRACTION) ** 0.5 * own
        self.values = values.to(zoo.device)

    def __len__(self) -> int:
        return len(self.labels)

    def near(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Noisy copies (N, size) of the latents ``chosen`` (N,), with ``requires_grad``."""
        noise = torch.randn(len(chosen), self.values.shape[1], generator=generator)
        device = self.values.device
        latents: Tensor = self.values[chosen.to(device)] + _NOISE * noise.to(device)
        return latents.requires_grad_(True)

    @torch.no_grad()
    def move(self, chosen: Tensor, targets: Tensor, rate: float) -> None:
        """Interpolate the latents ``chosen`` (N,) towards targets (N, size) by ``rate``."""
        index = chosen.to(self.values.device)
        self.values[index] = self.values[index].lerp(targets, rate)
