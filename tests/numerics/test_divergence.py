"""Divergences against SciPy, and directions of the Fisher information against its matrix."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import special, stats

from mixmix.compress.divergence import fisher_directions, mean_divergence


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


def test_divergence_is_from_the_first_to_the_second() -> None:
    logits, others = draw(7, 5, seed=0), draw(7, 5, seed=1)
    p, q = (special.softmax(t.double().numpy(), 1) for t in (logits, others))
    assert mean_divergence(logits, others) == pytest.approx(stats.entropy(p, q, axis=1).mean())
    assert mean_divergence(logits, others) != pytest.approx(mean_divergence(others, logits))
    assert mean_divergence(logits, logits + 5) == pytest.approx(0, abs=1e-12)


def test_directions_have_the_fisher_information_as_their_second_moment() -> None:
    logits = draw(1, 4, seed=0)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)))
    found = fisher_directions(logits.expand(16, -1), signs)
    p = special.softmax(logits[0].double().numpy())
    np.testing.assert_allclose(
        (found.T @ found / 16).numpy(), np.diag(p) - np.outer(p, p), atol=1e-6
    )
