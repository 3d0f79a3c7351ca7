"""The generator of amortized synthesis."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ImageGenerator"]

# Approximate height and width of the first feature map; every stage doubles them.
_START = 8
_SLOPE = 0.2


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
