"""Initial images and labels."""

from __future__ import annotations

import torch
from torch import Tensor

from mixmix.data.procedural import dead_leaves, pink_noise

__all__ = ["INITIAL_KINDS", "balanced_labels", "initial_images"]

INITIAL_KINDS = ("pink", "white", "leaves")

# Fraction of the variance of pink noise that is independent per channel.
_OWN_FRACTION = 0.25


def balanced_labels(num_images: int, num_classes: int) -> Tensor:
    """Labels (N,) that cycle through the classes, so that every prefix is balanced; zeros if K = 0.

    Fewer images than classes are spread evenly, since neighboring classes are often similar.
    """
    order = torch.arange(num_images)
    if num_images < num_classes:
        return order * num_classes // num_images
    return order % max(num_classes, 1)


def initial_images(
    kind: str, shape: tuple[int, int, int, int], *, generator: torch.Generator
) -> Tensor:
    """Images (N, C, H, W) in [0, 1] to start from: one of ``INITIAL_KINDS``.

    Noise has mean 1/2 and standard deviation 1/4.
    """
    if kind == "leaves":
        return dead_leaves(shape, generator=generator)
    if kind == "pink":
        noise = pink_noise(shape, own_fraction=_OWN_FRACTION, generator=generator)
    else:
        noise = torch.randn(shape, generator=generator)
    return (noise * 0.25 + 0.5).clamp_(0, 1)
