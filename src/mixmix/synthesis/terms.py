"""The losses of synthesis, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mixmix.zoo.observation import BatchNormStatistics

__all__ = ["bn_statistics_loss", "l2_loss", "mixed_cross_entropy_loss", "total_variation_loss"]


def bn_statistics_loss(
    statistics: Sequence[BatchNormStatistics], *, first_multiplier: float = 1.0
) -> Tensor:
    """Distance between the BatchNorm statistics of a batch and those stored in the network.

    ``sum_l || mean_l - running_mean_l ||_2 + || var_l - running_var_l ||_2`` (DeepInversion,
    Yin et al. 2020, eq. 4; MixMix, eq. 2); the first layer counts ``first_multiplier`` times.

    Args:
        statistics: one per BatchNorm layer, in order of execution; not empty.

    Returns:
        A scalar >= 0.
    """
    losses = [
        torch.linalg.vector_norm(s.mean - s.running_mean)
        + torch.linalg.vector_norm(s.var - s.running_var)
        for s in statistics
    ]
    total: Tensor = losses[0] * first_multiplier
    return sum(losses[1:], start=total)


def mixed_cross_entropy_loss(
    logits: Tensor, labels: Tensor, other: Tensor, share: Tensor
) -> Tensor:
    """Cross-entropy of mixed images: labels weigh as much as the area they cover (MixMix, eq. 7).

    Args:
        logits: (N, K).
        labels: (N,) classes of the images outside the box.
        other: (N,) classes of the images inside the box.
        share: (N,) share of the area that the box covers, in [0, 1].

    Returns:
        A scalar, the mean over the batch.
    """
    outside = F.cross_entropy(logits, labels, reduction="none")
    inside = F.cross_entropy(logits, other, reduction="none")
    return ((1 - share) * outside + share * inside).mean()


def total_variation_loss(images: Tensor) -> Tensor:
    """Mean absolute difference between neighbouring pixels, of images (N, C, H, W)."""
    total = images.new_zeros(())
    for dim in (2, 3):
        # A line of pixels has no neighbours across, and the mean of nothing is NaN.
        if images.shape[dim] > 1:
            total = total + images.diff(dim=dim).abs().mean()
    return total


def l2_loss(images: Tensor) -> Tensor:
    """Mean squared distance of pixels in [0, 1] from mid-grey."""
    return (images - 0.5).square().mean()
