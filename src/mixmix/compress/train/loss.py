"""Losses of distillation: pure functions of logits and features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["bernoulli_kl_loss", "feature_loss", "kl_loss"]

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


def bernoulli_kl_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """``T**2 * KL`` of the Bernoulli distributions of all classes, for ``multi_label`` networks.

    Unlike ``kl_loss``, it sees a common offset of all logits.

    Args:
        student: logits (N, K), of sigmoids.
        teacher: logits (N, K), of sigmoids.
        temperature: T > 0.

    Returns:
        A scalar >= 0, the sum over classes and the mean over the batch.
    """
    s, t = student / temperature, teacher / temperature
    divergence = sum(
        (F.logsigmoid(sign * t).exp() * (F.logsigmoid(sign * t) - F.logsigmoid(sign * s)))
        for sign in (1, -1)
    )
    assert isinstance(divergence, Tensor)
    return divergence.sum(1).mean() * temperature**2


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
