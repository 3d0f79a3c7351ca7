"""Cross-entropy of mixed images against plain loops, and gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from seeded import tensor
from torch.nn import functional as F

from mixmix.synthesis.terms.labels import mixed_cross_entropy_loss


def test_mixed_cross_entropy_against_a_loop() -> None:
    logits = tensor(6, 5)
    labels, other = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([4, 4, 2, 0, 1, 3])
    share = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.1, 0.9], dtype=torch.float64)
    total = 0.0
    for row, first, second, box in zip(logits.numpy(), labels, other, share, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        total += (1 - float(box)) * (log_sum - row[int(first)])
        total += float(box) * (log_sum - row[int(second)])
    found = mixed_cross_entropy_loss(logits, labels, other, share)
    assert found.item() == pytest.approx(total / 6, rel=1e-12)


def test_mixed_cross_entropy_without_a_box_is_cross_entropy() -> None:
    logits, labels = tensor(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    found = mixed_cross_entropy_loss(logits, labels, labels.flip(0), torch.zeros(6))
    torch.testing.assert_close(found, F.cross_entropy(logits, labels))


def test_mixed_cross_entropy_gradient() -> None:
    labels, other = torch.tensor([0, 1, 2]), torch.tensor([2, 2, 0])
    share = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: mixed_cross_entropy_loss(x, labels, other, share),
        (tensor(3, 4).requires_grad_(),),
    )
