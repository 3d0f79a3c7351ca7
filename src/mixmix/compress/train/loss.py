"""Losses of distillation: pure functions of logits and features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["feature_loss", "kl_loss"]

_TINY = 1e-12


def kl_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """``T**2 * KL(softmax(teacher / T) || softmax(student / T))`` (Hinton et al. 2015).

    Args:
        student: logits (N, K).
        teacher: logits (N, K).
        temperature: T > 0; a higher one gives more weight to unlikely classes.

    Returns:
        A scalar >= 0, the mean over the batch.
    """
    divergence = F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Relative squared distance of features, a mean over features and images.

    ``||s - t||**2 / (||s||**2 / 2 + ||t||**2 / 2)`` for each image, with a constant denominator,
    which has both norms because either can be zero after a ReLU.

    Args:
        student: features (N, ...), at least one.
        teacher: features of the same shapes.

    Returns:
        A scalar >= 0.
    """
    errors = []
    for s, t in zip(student, teacher, strict=True):
        size = (s.detach().square() + t.square()).flatten(1).sum(1) / 2
        errors.append(((s - t).square().flatten(1).sum(1) / (size + _TINY)).mean())
    return torch.stack(errors).mean()
