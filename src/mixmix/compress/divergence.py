"""Divergence between the predictions of two networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

__all__ = ["fisher_directions", "mean_divergence", "run_in_batches"]

_BATCH = 128


def mean_divergence(logits: Tensor, others: Tensor, *, multi_label: bool = False) -> float:
    """Mean of ``KL(softmax(logits) || softmax(others))`` over rows in nats; both (N, K).

    A single output (N, 1) has no such divergence: the result is the mean squared difference, over
    the mean square of ``logits``. With ``multi_label``, it is the sum over classes of the
    divergence of Bernoulli distributions, ``KL(sigmoid(logits) || sigmoid(others))``.
    """
    if multi_label:
        each = (t.double() for t in (logits, -logits, others, -others))
        log_p, log_no_p, log_q, log_no_q = map(logsigmoid, each)
        divergence = log_p.exp() * (log_p - log_q) + log_no_p.exp() * (log_no_p - log_no_q)
        return max(0.0, float(divergence.sum(1).mean()))
    if logits.shape[1] == 1:
        error, size = ((t.double().square().mean()) for t in (logits - others, logits))
        return float(error / size.clamp_min(1e-24))
    log_p, log_q = (t.double().log_softmax(1) for t in (logits, others))
    # Rounding errors can make it negative.
    return max(0.0, float((log_p.exp() * (log_p - log_q)).sum(1).mean()))


@torch.no_grad()
def run_in_batches(module: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs of a module for inputs (N, ...), without gradients."""
    return torch.cat([module(batch) for batch in inputs.split(_BATCH)])


def fisher_directions(logits: Tensor, signs: Tensor, *, multi_label: bool = False) -> Tensor:
    """Random directions v such that the mean of ``v v^T`` is the Fisher information of the logits.

    With p the softmax and q its square root, the Fisher information is ``diag(p) - p p^T = B B^T``
    with ``B = diag(q) - p q^T``; hence ``v = B r`` for random signs r. With ``multi_label``, p is
    the sigmoid, and the Fisher information is ``diag(p (1 - p))``.

    Args:
        logits: (N, K).
        signs: (N, K) of -1 and 1.
    """
    if multi_label:
        p = logits.sigmoid()
        return (p * (1 - p)).sqrt() * signs
    p = logits.softmax(1)
    along = (p.sqrt() * signs).sum(1, keepdim=True)
    return p.sqrt() * signs - p * along
