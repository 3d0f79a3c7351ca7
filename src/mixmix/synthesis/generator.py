"""A small network that draws images: what amortised synthesis optimises in place of pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ImageGenerator"]

# Height and width that drawing starts from, about; every stage doubles them.
_START = 8
_SLOPE = 0.2


class ImageGenerator(nn.Module):
    """From latents and labels to images, by upsampling and convolutions (after DCGAN, FastDFKD).

    Args:
        image_shape: (C, H, W) of an image.
        num_classes: K; 0 draws without labels.
        latent_size: numbers that an image is drawn from.
        width: channels of the last stage; those of the others are up to four times as many.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        latent_size: int = 128,
        width: int = 24,
    ) -> None:
        super().__init__()
        channels, height, width_of_image = image_shape
        self.image_shape, self.num_classes, self.latent_size = image_shape, num_classes, latent_size
        stages = max(1, round(math.log2(max(height, width_of_image) / _START)))
        widths = [min(4, 2**left) * width for left in range(stages, -1, -1)]
        self._start = (
            widths[0],
            math.ceil(height / 2**stages),
            math.ceil(width_of_image / 2**stages),
        )
        self.embedding = nn.Embedding(num_classes, latent_size) if num_classes else None
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
        self.head = nn.Sequential(
            nn.Conv2d(widths[-1], channels, 3, padding=1), nn.BatchNorm2d(channels)
        )

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Draw images.

        Args:
            latents: (N, D), about normal.
            labels: (N,) classes; not looked at where there are none.

        Returns:
            (N, C, H, W) in (0, 1).
        """
        if self.embedding is not None:
            latents = latents + self.embedding(labels)
        x = self.norm(self.stem(latents).view(-1, *self._start))
        if x.shape[1] > 1:
            x = x.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        size = self.image_shape[1:]
        if tuple(x.shape[2:]) != size:
            x = x[:, :, : size[0], : size[1]]
        images: Tensor = self.head(x).sigmoid()
        return images
