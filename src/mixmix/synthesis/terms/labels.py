"""Cross-entropy of the networks' predictions with the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from mixmix.models.zoo import Zoo
from mixmix.synthesis.terms.observation import BatchObservation, MemberObservation
from mixmix.synthesis.terms.term import MemberTerm

__all__ = ["CrossEntropy", "mixed_cross_entropy_loss"]


@dataclass(frozen=True)
class CrossEntropy(MemberTerm):
    """Cross-entropy with the labels, weighted by area in mixed images."""

    kind: ClassVar[str] = "ce"
    order: ClassVar[int] = 10

    def applies_to(self, zoo: Zoo) -> bool:
        return bool(zoo.headed)

    def of_member(self, seen: MemberObservation, batch: BatchObservation) -> Tensor | None:
        if seen.logits is None:
            return None
        return mixed_cross_entropy_loss(
            seen.logits, batch.labels, batch.partner_labels, batch.box_fraction
        )


def mixed_cross_entropy_loss(
    logits: Tensor, labels: Tensor, partner_labels: Tensor, box_fraction: Tensor
) -> Tensor:
    """Cross-entropy of mixed images, with labels weighted by the area they cover (MixMix, eq. 7).

    Args:
        logits: (N, K).
        labels: (N,) classes of the images outside the box.
        partner_labels: (N,) classes of the images inside the box.
        box_fraction: (N,) fraction of the area that the box covers, in [0, 1].

    Returns:
        A scalar, the mean over the batch.
    """
    outside = F.cross_entropy(logits, labels, reduction="none")
    inside = F.cross_entropy(logits, partner_labels, reduction="none")
    return ((1 - box_fraction) * outside + box_fraction * inside).mean()
