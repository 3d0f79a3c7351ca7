"""Learned rounding against autograd, PyTorch's Adam, and its own plain version."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixmix.compress.quantize.learnable import LearnableLayer
from mixmix.compress.quantize.quantizers import search_weight_grid
from mixmix.compress.quantize.rounding import Moments, RoundingRates, SoftRounding
from mixmix.runtime.compiled import has_compiler

RATES = RoundingRates(fraction=0.02, scale=0.003, regularization=0.5)
SHAPES = [(6, 5, 3, 3), (8, 1, 3, 3), (5, 7, 1, 1), (4, 9)]
needs_numba = pytest.mark.skipif(not has_compiler(), reason="numba is not installed")


def soft_rounding(shape: tuple[int, ...], bits: int = 2) -> SoftRounding:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return SoftRounding(weight, search_weight_grid(weight, bits), learn_scale=True)


def gradients(shape: tuple[int, ...], count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def test_moments_are_those_of_adam() -> None:
    parameter = nn.Parameter(torch.zeros(7))
    adam = torch.optim.Adam([parameter], lr=1.0, betas=(0.9, 0.99), eps=1e-12)
    moments, expected = Moments(parameter.detach()), torch.zeros(7)
    for gradient in gradients((7,), 5):
        expected -= moments.update(gradient)
        parameter.grad = gradient.clone()
        adam.step()
    assert torch.allclose(parameter, expected, atol=1e-5)


@needs_numba
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 4])
def test_one_pass_takes_the_steps_of_the_plain_version(shape: tuple[int, ...], bits: int) -> None:
    fused, plain = soft_rounding(shape, bits), soft_rounding(shape, bits)
    for gradient in gradients(shape, 30):
        fused.weight.grad = gradient.clone()
        fused.update(RATES)
        plain._update_plain(gradient, RATES)
    assert fused.weight.grad is None
    assert torch.allclose(fused.fraction, plain.fraction, atol=1e-4)
    assert torch.allclose(fused.grid.scale, plain.grid.scale, rtol=1e-4)
    assert torch.allclose(fused.weight, plain.weight, atol=1e-4)


def test_first_step_goes_against_the_gradients_of_share_and_scale() -> None:
    rounding = soft_rounding((6, 5, 3, 3))
    share = rounding.fraction.clone().requires_grad_(True)
    scale = rounding.grid.scale.clone().requires_grad_(True)
    grid = rounding.grid
    (target,) = gradients((6, 5, 3, 3), 1)
    weight = ((rounding.floor + share) * grid.step + grid.offset) * scale
    (weight - target).square().sum().backward()
    assert share.grad is not None and scale.grad is not None
    expected = (share.detach() - 0.01 * share.grad.sign()).clamp(0, 1)
    expected_scale = scale.detach() * (1 - 0.002 * scale.grad.sign())
    rounding.weight.grad = 2 * (rounding.weight.detach() - target)
    rounding.update(RoundingRates(fraction=0.01, scale=0.002, regularization=0.0))
    # Adam's first direction is the gradient's sign.
    assert torch.allclose(rounding.fraction, expected, atol=1e-5)
    assert torch.allclose(rounding.grid.scale, expected_scale, rtol=1e-5)
    assert torch.allclose(
        rounding.weight, rounding.grid.value(rounding.floor + rounding.fraction), atol=1e-5
    )


def test_pull_alone_rounds_to_nearest() -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    grid = search_weight_grid(weight, 3)
    rounding = SoftRounding(weight, grid, learn_scale=True)
    for _ in range(400):
        rounding.weight.grad = torch.zeros_like(weight)
        rounding.update(RoundingRates(fraction=0.05, scale=0.01, regularization=1.0))
    decided = (rounding.fraction == 0) | (rounding.fraction == 1)
    assert float(decided.float().mean()) > 0.99
    _, q = rounding.rounded()
    assert torch.equal(q[decided], grid.nearest(weight)[decided])


def test_the_callers_grid_stays_and_one_scale_per_layer_stays_one() -> None:
    layer = LearnableLayer(nn.Conv2d(3, 4, 3), 4, per_channel=False)
    before = layer.grid.scale.clone()
    rounding = layer.start_learning()
    rounding.weight.grad = torch.ones_like(rounding.weight)
    rounding.update(RATES)
    layer.finish_learning()
    assert torch.equal(layer.grid.scale, before)
    shared = search_weight_grid(torch.eye(3), 4)
    before = shared.scale.clone()
    rounding = SoftRounding(torch.eye(3), shared, learn_scale=True)
    rounding.weight.grad = torch.ones(3, 3)
    rounding.update(RATES)
    assert torch.equal(shared.scale, before)
    assert not torch.equal(rounding.rounded()[0].scale, before)


@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_weights_at_the_ends_of_the_grid_have_a_level_to_go_to(direction: float) -> None:
    weight = torch.tensor([[-8.0, -3.4, 0.2, 7.0]])
    grid = search_weight_grid(weight, 4)
    ends = grid.value(torch.tensor([[0.0, 4.0, 9.0, 15.0]]))
    rounding = SoftRounding(ends, grid, learn_scale=False)
    for _ in range(150):
        rounding.weight.grad = torch.full_like(ends, direction)
        rounding.update(RoundingRates(0.02, 0.0, 0.0))
    _, q = rounding.rounded()
    # Against the gradient, by one level at most; there is none behind the last.
    wanted = [1, 5, 10, 15] if direction < 0 else [0, 4, 9, 14]
    assert q.flatten().tolist() == wanted
