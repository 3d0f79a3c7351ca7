"""Similarity of images of one class, to keep a batch diverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from mixmix.synthesis.terms.observation import BatchObservation
from mixmix.synthesis.terms.term import PriorTerm

__all__ = ["Similarity", "similarity_loss"]

_SIDE = 16


@dataclass(frozen=True)
class Similarity(PriorTerm):
    """Similarity of the images of one class in a batch, before mixing; see ``similarity_loss``.

    Without it, a generator collapses to one image per class.
    """

    kind: ClassVar[str] = "similarity"
    order: ClassVar[int] = 60

    def __call__(self, batch: BatchObservation) -> Tensor:
        return similarity_loss(batch.images, batch.labels)


def similarity_loss(images: Tensor, labels: Tensor) -> Tensor:
    """Mean squared cosine similarity between images of one class, pooled to at most 16 x 16 pixels.

    The mean of each channel is subtracted, so that images have to differ in layout.

    Args:
        images: (N, C, H, W).
        labels: (N,).

    Returns:
        A scalar in [0, 1]; 0 where no two images have the same class.
    """
    height, width = images.shape[2:]
    small = F.adaptive_avg_pool2d(images, (min(_SIDE, height), min(_SIDE, width)))
    rows = F.normalize((small - small.mean((2, 3), keepdim=True)).flatten(1), dim=1)
    same = labels[:, None] == labels[None, :]
    same.fill_diagonal_(False)
    return (rows @ rows.T).square()[same].sum() / same.sum().clamp_min(1)
