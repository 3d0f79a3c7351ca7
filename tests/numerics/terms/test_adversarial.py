"""Agreement with a student against plain loops, and gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from seeded import tensor

from mixmix.synthesis.terms.adversarial import agreement_loss


def test_agreement_against_a_loop() -> None:
    teacher, student = (tensor(5, 4, seed=seed).softmax(1) for seed in (1, 2))
    # Adaptive DeepInversion (Yin et al. 2020), eq. 7, written out.
    total = 0.0
    for p, q in zip(teacher.tolist(), student.tolist(), strict=True):
        for a, b in zip(p, q, strict=True):
            middle = (a + b) / 2
            total += (a * math.log(a / middle) + b * math.log(b / middle)) / 2
    expected = 1 - total / 5 / math.log(2)
    assert float(agreement_loss(teacher, student)) == pytest.approx(expected, abs=1e-9)


def test_agreement_is_one_of_the_same_and_none_of_the_opposite() -> None:
    one, other = torch.eye(3), torch.eye(3).roll(1, 0)
    assert float(agreement_loss(one, one)) == pytest.approx(1, abs=1e-6)
    assert float(agreement_loss(one, other)) == pytest.approx(0, abs=1e-6)
