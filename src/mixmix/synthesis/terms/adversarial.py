"""The adversarial loss: images on which a student and the zoo disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mixmix.models.zoo import Zoo
from mixmix.synthesis.terms.observation import BatchObservation
from mixmix.synthesis.terms.term import Term

__all__ = ["Adversarial", "agreement_loss"]

_TINY = 1e-12


@dataclass(frozen=True)
class Adversarial(Term):
    """Agreement of a student with the mean prediction of the networks; see ``agreement_loss``.

    Ignored while there is no student.
    """

    kind: ClassVar[str] = "adversarial"
    order: ClassVar[int] = 30
    needs_student: ClassVar[bool] = True

    def applies_to(self, zoo: Zoo) -> bool:
        """False: disagreement alone does not make an image."""
        return False

    def __call__(self, batch: BatchObservation) -> Tensor | None:
        logits = [seen.logits for seen in batch.members if seen.logits is not None]
        if batch.student is None or not logits:
            return None
        found = batch.student(batch.views)
        if batch.zoo.multi_label:
            teacher = torch.stack([each.sigmoid() for each in logits]).mean(0)
            return agreement_loss(_as_pairs(teacher), _as_pairs(found.sigmoid()))
        teacher = torch.stack([each.softmax(1) for each in logits]).mean(0)
        return agreement_loss(teacher, found.softmax(1))


def _as_pairs(probabilities: Tensor) -> Tensor:
    """Distributions (N K, 2) of the classes' own labels, from their probabilities (N, K)."""
    return torch.stack([probabilities, 1 - probabilities], 2).flatten(0, 1)


def agreement_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """``1 - JS / ln 2``, where JS is the Jensen-Shannon divergence of two predictions.

    Adaptive DeepInversion (Yin et al. 2020, eq. 7), normalized: 1 for equal predictions, 0 for
    disjoint ones.

    Args:
        teacher: probabilities (N, K).
        student: probabilities (N, K).

    Returns:
        A scalar in [0, 1], the mean over the batch.
    """
    middle = ((teacher + student) / 2).clamp_min(_TINY).log()
    divergences = [
        F.kl_div(middle, p.clamp_min(_TINY), reduction="batchmean") for p in (teacher, student)
    ]
    return 1 - torch.stack(divergences).mean() / math.log(2)
