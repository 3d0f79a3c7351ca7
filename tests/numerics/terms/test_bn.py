"""Distances of BatchNorm statistics against plain loops and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from seeded import tensor
from torch import Tensor

from mixmix.models.observation import BatchNormStatistics
from mixmix.synthesis.terms.bn import bn_statistics_loss, layer_factors, relative_bn_loss


def statistics(widths: tuple[int, ...]) -> list[BatchNormStatistics]:
    return [
        BatchNormStatistics(*(tensor(width, seed=10 * layer + part) for part in range(4)))
        for layer, width in enumerate(widths)
    ]


def positive(layers: list[BatchNormStatistics]) -> list[BatchNormStatistics]:
    return [layer._replace(running_var=layer.running_var.abs()) for layer in layers]


@pytest.mark.parametrize("first_multiplier", [1.0, 10.0, 0.0])
@pytest.mark.parametrize("widths", [(3,), (5, 2, 7)])
def test_bn_loss_against_a_loop(widths: tuple[int, ...], first_multiplier: float) -> None:
    layers = statistics(widths)
    # DeepInversion (Yin et al. 2020), eq. 4, written out channel by channel.
    expected = 0.0
    for index, layer in enumerate(layers):
        mean, var, running_mean, running_var = (part.numpy() for part in layer)
        squares_of_mean = squares_of_var = 0.0
        for channel in range(len(mean)):
            squares_of_mean += (mean[channel] - running_mean[channel]) ** 2
            squares_of_var += (var[channel] - running_var[channel]) ** 2
        distance = math.sqrt(squares_of_mean) + math.sqrt(squares_of_var)
        expected += distance * (first_multiplier if index == 0 else 1.0)
    found = bn_statistics_loss(layers, first_multiplier=first_multiplier)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_bn_loss_is_zero_with_finite_gradient_at_a_perfect_match() -> None:
    mean, var = tensor(4).requires_grad_(), tensor(4, seed=1).requires_grad_()
    loss = bn_statistics_loss([BatchNormStatistics(mean, var, mean.detach(), var.detach())])
    loss.backward()
    assert loss.item() == 0
    assert mean.grad is not None and torch.isfinite(mean.grad).all()
    assert var.grad is not None and torch.isfinite(var.grad).all()


@pytest.mark.parametrize("first_multiplier", [1.0, 10.0, 0.0])
@pytest.mark.parametrize("widths", [(3,), (5, 2, 7)])
def test_relative_bn_loss_against_a_loop(widths: tuple[int, ...], first_multiplier: float) -> None:
    layers = positive(statistics(widths))
    expected = 0.0
    for index, layer in enumerate(layers):
        mean, var, running_mean, running_var = (part.numpy() for part in layer)
        scale = running_var + 0.01 * running_var.mean()
        shift = math.sqrt((((mean - running_mean) ** 2) / scale).mean())
        stretch = math.sqrt((((var - running_var) / scale) ** 2).mean())
        expected += (shift + stretch) * (first_multiplier if index == 0 else 1.0)
    found = relative_bn_loss(layers, first_multiplier=first_multiplier)
    assert found.item() == pytest.approx(expected / len(widths), rel=1e-12)


def test_relative_bn_loss_does_not_know_scales_widths_and_depths() -> None:
    (layer,) = positive(statistics((6,)))
    once = relative_bn_loss([layer])
    factor = torch.tensor(1000.0, dtype=torch.float64)
    powers = (factor, factor**2, factor, factor**2)
    scaled = BatchNormStatistics(*(part * f for part, f in zip(layer, powers, strict=True)))
    wide = BatchNormStatistics(*(part.repeat(3) for part in layer))
    for layers in ([scaled], [wide], [layer, scaled, wide]):
        torch.testing.assert_close(relative_bn_loss(layers), once)


def test_relative_bn_loss_of_channels_that_do_not_vary_is_finite() -> None:
    dead = torch.zeros(4, dtype=torch.float64)
    mean, var = tensor(4).requires_grad_(), tensor(4, seed=1).abs().requires_grad_()
    for running_mean, running_var in ((dead, dead), (mean.detach(), var.detach())):
        loss = relative_bn_loss([BatchNormStatistics(mean, var, running_mean, running_var)])
        gradients = torch.autograd.grad(loss, (mean, var))
        assert all(bool(torch.isfinite(each).all()) for each in (loss, *gradients))


def test_relative_bn_loss_gradient() -> None:
    running = tensor(3, seed=8), tensor(3, seed=9).abs()

    def loss(features: Tensor) -> Tensor:
        var, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
        return relative_bn_loss([BatchNormStatistics(mean, var, *running)], first_multiplier=2.0)

    assert torch.autograd.gradcheck(loss, (tensor(4, 3, 2, 2).requires_grad_(),))


def test_bn_loss_gradient() -> None:
    running = tensor(3, seed=8), tensor(3, seed=9)

    def loss(features: Tensor) -> Tensor:
        var, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
        return bn_statistics_loss([BatchNormStatistics(mean, var, *running)], first_multiplier=2.0)

    assert torch.autograd.gradcheck(loss, (tensor(4, 3, 2, 2).requires_grad_(),))


def _scaled(layer: BatchNormStatistics, factor: float) -> BatchNormStatistics:
    """As if the weights before the layer were multiplied."""
    powers = (factor, factor**2, factor, factor**2)
    return BatchNormStatistics(*(part * f for part, f in zip(layer, powers, strict=True)))


@pytest.mark.parametrize("factor", [100.0, 1e4])
@pytest.mark.parametrize("badly_scaled", [0, 2])
def test_badly_scaled_layers_count_as_typical_ones(badly_scaled: int, factor: float) -> None:
    layers = positive(statistics((4, 4, 4, 4)))
    norm = layers[badly_scaled].running_var.norm()
    others = [each for i, each in enumerate(layers) if i != badly_scaled]
    layers[badly_scaled] = _scaled(layers[badly_scaled], factor)
    typical = torch.stack([each.running_var.norm() for each in layers]).median()
    twin = list(layers)
    twin[badly_scaled] = _scaled(layers[badly_scaled], float((typical / norm).sqrt()) / factor)
    found = bn_statistics_loss(layers, factors=layer_factors(layers))
    torch.testing.assert_close(found, bn_statistics_loss(twin))
    assert layer_factors(others).eq(1).all()


def test_a_network_with_large_variances_in_all_layers() -> None:
    layers = [_scaled(each, 1e3) for each in positive(statistics((4, 4, 4)))]
    found = layer_factors(layers) * torch.stack([each.running_var.norm() for each in layers])
    torch.testing.assert_close(found, torch.full_like(found, 10.0))
