"""Image priors, which use no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mixmix.synthesis.terms.observation import BatchObservation
from mixmix.synthesis.terms.term import PriorTerm

__all__ = ["L2", "TotalVariation", "l2_loss", "total_variation_loss"]


@dataclass(frozen=True)
class TotalVariation(PriorTerm):
    """Mean absolute difference between neighboring pixels, of the images before mixing."""

    kind: ClassVar[str] = "tv"
    order: ClassVar[int] = 40

    def __call__(self, batch: BatchObservation) -> Tensor:
        return total_variation_loss(batch.images)


@dataclass(frozen=True)
class L2(PriorTerm):
    """Mean squared distance of the pixels from mid-gray, of the images before mixing."""

    kind: ClassVar[str] = "l2"
    order: ClassVar[int] = 50

    def __call__(self, batch: BatchObservation) -> Tensor:
        return l2_loss(batch.images)


def total_variation_loss(images: Tensor) -> Tensor:
    """Mean absolute difference between neighboring pixels, of images (N, C, H, W)."""
    total = images.new_zeros(())
    for dim in (2, 3):
        # The mean of no differences would be NaN.
        if images.shape[dim] > 1:
            total = total + images.diff(dim=dim).abs().mean()
    return total


def l2_loss(images: Tensor) -> Tensor:
    """Mean squared distance from mid-gray, of images (N, C, H, W) in [0, 1]."""
    return (images - 0.5).square().mean()
