"""Images and labels to start from."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["balanced_labels", "gaussian_noise"]


def balanced_labels(num_images: int, num_classes: int) -> Tensor:
    """Labels (N,) that go round the classes, so that every prefix is balanced; zeros if K = 0."""
    return torch.arange(num_images) % max(num_classes, 1)


def gaussian_noise(shape: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
    """Gaussian noise around mid-grey, a quarter wide, cut to [0, 1]."""
    return (torch.randn(shape, generator=generator) * 0.25 + 0.5).clamp_(0, 1)
