"""Divergences against SciPy, and directions of the Fisher information against its matrix."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import special, stats

from mixmix import ModelSpec
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


def spec(num_classes: int, *, multi_label: bool = False) -> ModelSpec:
    shape = (3, 8, 8)
    return ModelSpec("net", "module", shape, 0.5, 0.5, num_classes, multi_label=multi_label)  # type: ignore[arg-type]


def test_divergence_of_several_labels_sees_a_common_offset() -> None:
    logits, others = draw(7, 5, seed=0), draw(7, 5, seed=1)
    p, q = (special.expit(t.double().numpy()) for t in (logits, others))
    expected = stats.entropy(np.stack([p, 1 - p]), np.stack([q, 1 - q]), axis=0).mean()
    found = mean_divergence(logits, others, spec(5, multi_label=True))
    assert found == pytest.approx(expected)
    assert mean_divergence(logits, logits + 5, spec(5, multi_label=True)) > 0.1


@pytest.mark.parametrize("shape", [(7, 1), (7, 5), (7, 5, 3, 3)])
def test_outputs_without_classes_have_a_relative_error(shape: tuple[int, ...]) -> None:
    wanted = draw(*shape, seed=0)
    assert mean_divergence(wanted, 1.5 * wanted, spec(0)) == pytest.approx(0.25)
    assert mean_divergence(wanted, wanted + 5, spec(0)) > 1


def test_directions_of_several_labels_have_the_variances_of_each() -> None:
    logits = draw(1, 4, seed=0)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)))
    found = fisher_directions(logits.expand(16, -1), signs, multi_label=True)
    p = special.expit(logits[0].double().numpy())
    np.testing.assert_allclose((found.T @ found / 16).numpy(), np.diag(p * (1 - p)), atol=1e-6)
