"""Disagreement with a student: images from which it has something to learn."""

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
    """Agreement of a student with the mean of the networks drawn; left out where there is none.

    Images are made on which the student does not agree with the zoo yet (see ``agreement_loss``).

    Attributes:
        weight: factor of the term, >= 0.
    """

    kind: ClassVar[str] = "adversarial"
    order: ClassVar[int] = 30
    needs_student: ClassVar[bool] = True

    def applies_to(self, zoo: Zoo) -> bool:
        """Never by itself: what networks disagree on need not look like anything."""
        return False

    def __call__(self, batch: BatchObservation) -> Tensor | None:
        """The agreement, in [0, 1]."""
        logits = [seen.logits for seen in batch.members if seen.logits is not None]
        if batch.student is None or not logits:
            return None
        wanted = torch.stack([each.softmax(1) for each in logits]).mean(0)
        student_logits = batch.student_logits
        assert student_logits is not None
        return agreement_loss(wanted, student_logits.softmax(1))


def agreement_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """``1 - JS / ln 2``: 1 where two networks predict the same, 0 where nothing is in common.

    Made small, it asks for images on which they disagree (Adaptive DeepInversion, Yin et al. 2020,
    eq. 7, in units of its largest value). JS is the Jensen-Shannon divergence.

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
