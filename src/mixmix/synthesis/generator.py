"""The generator of amortized synthesis and its latents, which are optimized together."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.models.zoo import Zoo
from mixmix.runtime import seeding
from mixmix.synthesis.initial import balanced_labels

__all__ = ["ImageGenerator", "LatentBank"]

# Approximate height and width of the first feature map; every stage doubles them.
_START = 8
_SLOPE = 0.2
# Fraction of the initial variance that is common to a class.
_CLASS_FRACTION = 0.5
# Standard deviation of the noise added in each round.
_NOISE = 0.3


class ImageGenerator(nn.Module):
    """Maps latents to images by upsampling and convolution (after DCGAN, Radford et al. 2016).

    Args:
        image_shape: (C, H, W).
        latent_size: size of a latent.
        width: channels of the last stage; earlier ones have up to four times as many.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], *, latent_size: int = 128, width: int = 16
    ) -> None:
        super().__init__()
        channels, *size = image_shape
        self._size = tuple(size)
        num_stages = max(1, round(math.log2(max(size) / _START)))
        widths = [min(4, 2**left) * width for left in range(num_stages, -1, -1)]
        height, breadth = (math.ceil(length / 2**num_stages) for length in size)
        self._start = (widths[0], height, breadth)
        self.stem = nn.Linear(latent_size, math.prod(self._start))
        self.norm = nn.BatchNorm2d(widths[0])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(_SLOPE),
            )
            for before, after in zip(widths, widths[1:], strict=False)
        )
        # Normalized, so that the sigmoid neither stays at 1/2 nor saturates at first.
        self.head = nn.Sequential(
            nn.Conv2d(widths[-1], channels, 3, padding=1), nn.BatchNorm2d(channels)
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Images (N, C, H, W) in (0, 1) of latents (N, D), roughly standard normal."""
        x = self.norm(self.stem(latents).view(-1, *self._start))
        x = x.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        height, width = self._size
        images: Tensor = self.head(x[:, :, :height, :width]).sigmoid()
        return images


class LatentBank:
    """Latents, balanced over the classes of a zoo.

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
        """Interpolate the latents ``chosen`` (N,) toward targets (N, size) by ``rate``."""
        index = chosen.to(self.values.device)
        self.values[index] = self.values[index].lerp(targets, rate)
