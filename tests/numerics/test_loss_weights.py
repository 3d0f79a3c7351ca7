"""Weights of the squared error against exact sums over classes and signs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.compress.activation_store import ActivationStore
from mixmix.compress.divergence import fisher_directions
from mixmix.compress.quantize.loss_weights import measure_loss_weights
from mixmix.compress.quantize.reconstruction import ReconstructionSettings, loss_gradient
from mixmix.errors import InputError
from mixmix.runtime import compiled

CLASSES = 3

STORE = ActivationStore(1.0, batch_size=1000, device=torch.device("cpu"))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rest() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(4, 5, 3), nn.ReLU(inplace=True), nn.Flatten(1)
        return nn.Sequential(*layers, nn.Linear(5 * 3 * 3, CLASSES)).requires_grad_(False)


def estimate(network: nn.Module, outputs: Tensor, loss: str, draws: int) -> Tensor:
    """Mean over many images that are the same: each has a direction of its own."""
    many = outputs.repeat(draws, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    found = measure_loss_weights([network], many, loss, store=STORE, generator=generator)
    assert found is not None
    return found


def test_directions_have_the_fisher_information_as_covariance() -> None:
    logits = draw(1, CLASSES)
    p = logits.softmax(1)[0]
    exact = torch.zeros(CLASSES, CLASSES)
    for label in range(CLASSES):  # E over y ~ p of grad log p(y) grad log p(y)^T
        leaf = logits.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(leaf, torch.tensor([label])), leaf)
        exact += p[label] * gradient[0].outer(gradient[0])
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=CLASSES)))
    v = fisher_directions(logits.expand(len(signs), -1), signs)
    torch.testing.assert_close(v.T @ v / len(signs), exact)


def test_fisher_is_the_mean_squared_gradient_of_the_log_likelihood() -> None:
    network, outputs = rest(), draw(1, 4, 5, 5)
    p = network(outputs).softmax(1)[0]
    exact = torch.zeros_like(outputs)
    for label in range(CLASSES):
        leaf = outputs.clone().requires_grad_(True)
        loss = F.cross_entropy(network(leaf.clone()), torch.tensor([label]))
        (gradient,) = torch.autograd.grad(loss, leaf)
        exact += p[label] * gradient.square()
    found = estimate(network, outputs, "fisher", 20_000)
    assert float(found.mean()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(
        found.mean(0, keepdim=True), exact / exact.mean(), rtol=0.1, atol=0.02
    )


def test_output_is_the_mean_squared_jacobian_of_each_channel() -> None:
    network, outputs = rest(), draw(1, 4, 5, 5)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x.clone()), outputs)
    exact = jacobian.square().sum((0, 1, 2)).mean((1, 2))
    found = estimate(network, outputs, "output", 20_000)
    assert found.shape == (1, 4, 5, 5)
    assert torch.equal(found, found[:, :, :1, :1].expand_as(found))
    torch.testing.assert_close(found[0, :, 0, 0], exact / exact.mean(), rtol=0.05, atol=0)


@pytest.mark.parametrize("loss", ["fisher", "output"])
def test_the_last_unit_gives_the_logits_themselves(loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    found = measure_loss_weights([], draw(6, 5), loss, store=STORE, generator=generator)
    assert found is not None and found.shape == (6 if loss == "fisher" else 1, 5)
    if loss == "output":
        assert torch.equal(found, torch.ones(1, 5))


def test_nothing_is_weighed_where_nothing_reaches_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = draw(6, 5)
    assert measure_loss_weights([], outputs, "mse", store=STORE, generator=generator) is None
    blocked = [lambda x: x * 0]
    found = measure_loss_weights(blocked, outputs, "fisher", store=STORE, generator=generator)
    assert found is None


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 1, 1), (5,)])
def test_gradient_is_that_of_the_weighted_squared_error(
    shape: tuple[int, ...], rows: int, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fused:
        monkeypatch.setattr(compiled, "numba", None)
    targets, chosen = draw(9, *shape), torch.tensor([3, 3, 8, 0])
    weights = draw(rows, *shape, seed=2).square()
    if len(shape) == 3:
        targets = targets.contiguous(memory_format=torch.channels_last)
    outputs = draw(4, *shape, seed=1).requires_grad_(True)
    picked = weights[chosen] if rows > 1 else weights
    error = (picked * (outputs - targets[chosen]).square()).mean() * shape[0]
    error.backward()
    found = loss_gradient(outputs.detach(), targets, chosen, weights)
    assert outputs.grad is not None
    torch.testing.assert_close(found, outputs.grad, atol=1e-6, rtol=1e-4)


def test_unknown_losses_are_refused() -> None:
    with pytest.raises(InputError, match="loss must be one of mse, fisher, output, got 'kl'"):
        ReconstructionSettings(loss="kl")
