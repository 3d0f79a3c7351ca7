"""Divergence between the predictions of two networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["fisher_directions", "mean_divergence", "run_in_batches"]

_BATCH = 128


def mean_divergence(logits: Tensor, others: Tensor) -> float:
    """Mean of ``KL(softmax(logits) || softmax(others))`` over rows in nats; both (N, K).

    A single output (N, 1) has no such divergence: the result is the mean squared difference, over
    the mean square of ``logits``.
    """
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


def fisher_directions(logits: Tensor, signs: Tensor) -> Tensor:
    """Random directions v such that the mean of ``v v^T`` is the Fisher information of the logits.

    With p the softmax and q its square root, the Fisher information is ``diag(p) - p p^T = B B^T``
    with ``B = diag(q) - p q^T``; hence ``v = B r`` for random signs r.

    Args:
        logits: (N, K).
        signs: (N, K) of -1 and 1.
    """
    p = logits.softmax(1)
    along = (p.sqrt() * signs).sum(1, keepdim=True)
    return p.sqrt() * signs - p * along
