"""Image priors, which use no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mixmix.models.zoo import Zoo
from mixmix.synthesis.terms.observation import BatchObservation
from mixmix.synthesis.terms.term import Term

__all__ = ["L2", "TotalVariation", "l2_loss", "total_variation_loss"]


class _Prior(Term):
    def applies_to(self, zoo: Zoo) -> bool:
        """False: a prior uses no network."""
        return False


@dataclass(frozen=True)
class TotalVariation(_Prior):
    """Mean absolute difference between neighboring pixels, of the images before mixing.

    Attributes:
        weight: factor of the term, >= 0.
    """

    kind: ClassVar[str] = "tv"
    order: ClassVar[int] = 40

    def __call__(self, batch: BatchObservation) -> Tensor:
        """The total variation, a mean over pixels."""
        return total_variation_loss(batch.images)


@dataclass(frozen=True)
class L2(_Prior):
    """Mean squared distance of the pixels from mid-gray, of the images before mixing.

    Attributes:
        weight: factor of the term, >= 0.
    """

    kind: ClassVar[str] = "l2"
    order: ClassVar[int] = 50

    def __call__(self, batch: BatchObservation) -> Tensor:
        """The mean squared distance."""
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
