"""How far the predictions of two networks are apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["fisher_directions", "mean_divergence", "run_in_batches"]

_BATCH = 128


def mean_divergence(logits: Tensor, others: Tensor) -> float:
    """Mean over rows of ``KL(softmax(logits) || softmax(others))`` in nats; both (N, K)."""
    log_p, log_q = (t.double().log_softmax(1) for t in (logits, others))
    # Rounding leaves a difference of either sign where both are the same.
    return max(0.0, float((log_p.exp() * (log_p - log_q)).sum(1).mean()))


@torch.no_grad()
def run_in_batches(module: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs of a module for all inputs (N, ...), without gradients."""
    return torch.cat([module(batch) for batch in inputs.split(_BATCH)])


def fisher_directions(logits: Tensor, signs: Tensor) -> Tensor:
    """Random directions v whose mean of ``v v^T`` is the Fisher information of the logits.

    With p the softmax and q its square root, the Fisher information is ``diag(p) - p p^T``, which
    is B B^T with ``B = diag(q) - p q^T``; hence ``v = B r`` for random signs r. Unlike the gradient
    of the cross-entropy with the likeliest class it does not vanish for images that the network is
    sure of, and unlike that of the divergence from its own prediction it is not zero.

    Args:
        logits: (N, K).
        signs: (N, K) of -1 and 1.
    """
    p = logits.softmax(1)
    along = (p.sqrt() * signs).sum(1, keepdim=True)
    return p.sqrt() * signs - p * along
