"""Random views of the images being optimized, the same for the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["jitter_and_flip"]


def jitter_and_flip(
    images: Tensor, *, jitter: int, flip: bool, generator: torch.Generator
) -> Tensor:
    """Roll images (N, C, H, W) by up to ``jitter`` pixels each way; flip with probability 1/2.

    Differentiable; after DeepInversion (Yin et al. 2020). ``generator`` is a CPU generator.
    """
    if jitter:
        shift = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
        images = torch.roll(images, shift, dims=(2, 3))
    if flip and bool(torch.rand((), generator=generator) < 0.5):
        images = images.flip(3)
    return images
