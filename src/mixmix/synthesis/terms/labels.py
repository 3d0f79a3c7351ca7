"""Cross-entropy of the networks' predictions with the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from mixmix.models.zoo import Zoo
from mixmix.synthesis.terms.observation import BatchObservation, MemberObservation
from mixmix.synthesis.terms.term import MemberTerm

__all__ = ["CrossEntropy", "mixed_binary_loss", "mixed_cross_entropy_loss"]


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
        loss = mixed_binary_loss if batch.zoo.multi_label else mixed_cross_entropy_loss
        return loss(seen.logits, batch.labels, batch.partner_labels, batch.box_fraction)


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


def mixed_binary_loss(
    logits: Tensor, labels: Tensor, partner_labels: Tensor, box_fraction: Tensor
) -> Tensor:
    """Binary cross-entropy per class of mixed images, which show both of their labels.

    For networks with ``multi_label``. The arguments are those of ``mixed_cross_entropy_loss``; a
    label inside of the box counts only where there is a box.

    Returns:
        A scalar, the sum over classes and the mean over the batch.
    """
    shown = F.one_hot(labels, logits.shape[1])
    inside = F.one_hot(partner_labels, logits.shape[1]) * (box_fraction > 0)[:, None]
    target = (shown | inside.long()).to(logits)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1).mean()
