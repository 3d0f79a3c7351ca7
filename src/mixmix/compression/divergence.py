"""How far the predictions of two networks are apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["mean_divergence", "run_in_batches"]

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
