"""Moments of layers against NumPy, and least squares with a ridge against its closed form."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_networks import tiny_images, tiny_spec
from torch import Tensor, nn

from mixmix import ReconstructFeatures, recover
from mixmix.compress.recover.masked_least_squares import masked_least_squares
from mixmix.graph.layer_moments import measure_moments


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_moments_are_those_of_numpy() -> None:
    x, targets = draw(50, 6) + 3, draw(50, 4, seed=1) * 2 - 5
    layer = nn.Linear(6, 4).double()
    calls = [(x[:20], targets[:20]), (x[20:], targets[20:])]
    found = measure_moments(layer, calls, positions=None, generator=torch.Generator())
    assert found.num_positions == 50
    inputs, outputs = x.numpy(), targets.numpy()
    np.testing.assert_allclose(found.gram[0], inputs.T @ inputs / 50)
    np.testing.assert_allclose(found.cross[0], outputs.T @ inputs / 50)
    np.testing.assert_allclose(found.target_variance[0], outputs.var(0))
    centered = found.centered()
    np.testing.assert_allclose(centered.gram[0], np.cov(inputs.T, bias=True), atol=1e-10)
    both = np.cov(outputs.T, inputs.T, bias=True)[:4, 4:]
    np.testing.assert_allclose(centered.cross[0], both, atol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 0.1, 2.0])
def test_ridge_regression_has_its_closed_form(ridge: float) -> None:
    # Hoerl & Kennard 1970, toward w0 in place of zero, on the support of each row.
    x, weight, kept = draw(300, 8, seed=2), draw(3, 8), draw(3, 8, seed=3) > -0.5
    x = x @ draw(8, 8, seed=5)
    targets = x @ draw(8, 3, seed=4)
    gram, cross = x.T @ x / 300, targets.T @ x / 300
    found = masked_least_squares(weight, kept, gram, cross, ridge=ridge, iterations=40)
    penalty = ridge * float(gram.diagonal().mean())
    for row in range(3):
        support = kept[row].numpy()
        left = gram.numpy()[np.ix_(support, support)] + penalty * np.eye(support.sum())
        right = cross[row].numpy()[support] + penalty * weight[row].numpy()[support]
        wanted = np.linalg.solve(left, right)
        np.testing.assert_allclose(found[row].numpy()[support], wanted, atol=1e-5)
        assert not found[row].numpy()[~support].any()


def test_batch_norm_keeps_the_distance_of_images_in_deviations() -> None:
    # What a layer cannot tell makes its outputs vary less by a share; the statistics behind it
    # shrink alike, so that an image stands as many standard deviations from the mean as before.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1))
        teacher = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 4)).eval()
    teacher.requires_grad_(False)
    teacher[1].running_mean.copy_(torch.linspace(-2, 2, 6))  # type: ignore[union-attr, operator]
    teacher[1].running_var.fill_(3.0)  # type: ignore[union-attr, operator]
    student = copy.deepcopy(teacher)
    mask = torch.ones_like(student[0].weight, dtype=torch.bool)
    mask[:, 2] = False
    recovery = ReconstructFeatures(iterations=0, views=0)
    found = recover(
        student, teacher, tiny_images(), tiny_spec("plain"), recovery,
        masks={"0.weight": mask}, seed=0,
    )  # fmt: skip
    spec = tiny_spec("plain")
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    x = (tiny_images().images - mean) / std

    def about(network: nn.Module) -> tuple[Tensor, Tensor]:
        """Distance of the outputs' mean from the statistics in deviations, and their variances."""
        outputs = network[0](x)  # type: ignore[index, operator]
        norm = network[1]  # type: ignore[index]
        shift = (outputs.mean((0, 2, 3)) - norm.running_mean) / norm.running_var.sqrt()
        return shift, outputs.var((0, 2, 3), correction=0) / norm.running_var

    for one, other in zip(about(found), about(teacher), strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)
