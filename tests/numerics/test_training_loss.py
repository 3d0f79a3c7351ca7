from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixmix.compress.train.loss import bernoulli_kl_loss, feature_loss, kl_loss


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_the_sum_of_its_definition(temperature: float) -> None:
    student, teacher = draw(5, 7, seed=0), draw(5, 7, seed=1)
    p, q = ((logits / temperature).softmax(1) for logits in (teacher, student))
    expected = (p * (p / q).log()).sum(1).mean() * temperature**2
    torch.testing.assert_close(kl_loss(student, teacher, temperature=temperature), expected)
    assert float(kl_loss(teacher, teacher, temperature=temperature)) == pytest.approx(0, abs=1e-6)


def test_gradient_of_the_kl_keeps_its_size_when_logits_are_soft() -> None:
    # Hinton et al. 2015, section 2.1: T**2 holds it near (student - teacher) / K for large T.
    student, teacher = draw(1, 6, seed=0).requires_grad_(True), draw(1, 6, seed=1)
    kl_loss(student, teacher, temperature=1000.0).backward()
    centered = [logits - logits.mean() for logits in (student.detach(), teacher)]
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (centered[0] - centered[1]) / 6, rtol=0.01, atol=1e-3)


def test_features_count_relative_to_their_size() -> None:
    t = draw(4, 3, 5, 5, seed=0)
    small, large = feature_loss([t * 1.1], [t]), feature_loss([t * 110], [t * 100])
    torch.testing.assert_close(small, large)
    assert float(small) == pytest.approx(0.01 / ((1.21 + 1) / 2), rel=1e-4)
    assert float(feature_loss([t, t * 1.1], [t, t])) == pytest.approx(float(small) / 2, rel=1e-4)


def test_features_that_are_zero_stay_finite() -> None:
    zero, t = torch.zeros(2, 3, requires_grad=True), draw(2, 3, seed=0)
    loss = feature_loss([zero, zero], [zero.detach(), t])
    assert float(loss.detach()) == pytest.approx(1.0)  # 0 where both are zero, 2 where one is
    loss.backward()
    assert bool(torch.isfinite(zero.grad).all())  # type: ignore[arg-type]


def test_bernoulli_divergence_against_that_of_torch() -> None:
    draws = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 5, generator=draws) * 4 for _ in range(2))
    p, q = (
        torch.distributions.Bernoulli(logits=logits.double() / 3) for logits in (teacher, student)
    )
    expected = torch.distributions.kl_divergence(p, q).sum(1).mean() * 9
    found = bernoulli_kl_loss(student, teacher, temperature=3.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    # Unlike softmax, sigmoids see a common offset.
    assert bernoulli_kl_loss(student, student + 3, temperature=3.0) > 0.1
