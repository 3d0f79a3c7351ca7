"""Learned step sizes against the equations of LSQ (Esser et al. 2020), value by value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixmix.compress.quantize.learnable import LearnableActivation, LearnableLayer, Phase
from mixmix.compress.quantize.lsq import (
    StepSizeActivation,
    StepSizeLayer,
    quantize_weight,
    scale_gradient,
)
from mixmix.compress.quantize.quantizers import WeightGrid, search_weight_grid


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lsq_gradients(v: float, s: float, lowest: int, highest: int) -> tuple[float, float, float]:
    """Equations 1 to 3 and 5 of the paper: the value, and its derivatives for ``s`` and ``v``."""
    ratio = v / s
    if ratio <= lowest:
        return lowest * s, lowest, 0.0
    if ratio >= highest:
        return highest * s, highest, 0.0
    return round(ratio) * s, round(ratio) - ratio, 1.0


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_have_the_gradients_of_the_paper(bits: int) -> None:
    half = 2 ** (bits - 1)
    weight = draw(5, 40).requires_grad_(True)
    scale = torch.tensor([[0.01], [0.1], [0.4], [1.0], [3.0]]).requires_grad_(True)
    grid = WeightGrid(bits, scale, torch.ones(5, 1), torch.full((5, 1), -half))
    value = quantize_weight(weight, grid)
    gradient = draw(5, 40, seed=1)
    value.backward(gradient)
    expected = [
        [lsq_gradients(float(v), float(s), -half, half - 1) for v in row]
        for row, s in zip(weight.detach(), scale.detach().flatten(), strict=True)
    ]
    values, by_scale, by_weight = torch.tensor(expected).unbind(2)
    assert weight.grad is not None and scale.grad is not None
    torch.testing.assert_close(value.detach(), values)
    torch.testing.assert_close(weight.grad, gradient * by_weight)
    torch.testing.assert_close(
        scale.grad, (gradient * by_scale).sum(1, keepdim=True), rtol=1e-4, atol=1e-4
    )


def test_odd_integers_have_the_gradients_of_their_levels() -> None:
    weight = torch.tensor([[-0.7, -0.12, 0.05, 0.13, 0.9]]).requires_grad_(True)
    scale = torch.tensor([[0.1]], requires_grad=True)
    grid = WeightGrid(2, scale, torch.full((1, 1), 2), torch.full((1, 1), -3))
    value = quantize_weight(weight, grid)
    torch.testing.assert_close(value.detach(), torch.tensor([[-0.3, -0.1, 0.1, 0.1, 0.3]]))
    value.sum().backward()
    assert weight.grad is not None and scale.grad is not None
    assert weight.grad.flatten().tolist() == [0, 1, 1, 1, 0]
    # Levels outside, rounding errors inside.
    assert float(scale.grad) == pytest.approx(-3 + (-1 + 1.2) + (1 - 0.5) + (1 - 1.3) + 3, abs=1e-5)


def test_scaled_gradient_has_the_same_value() -> None:
    tensor = draw(7).requires_grad_(True)
    scaled = scale_gradient(tensor, 0.01)
    torch.testing.assert_close(scaled, tensor)
    scaled.sum().backward()
    assert tensor.grad is not None
    torch.testing.assert_close(tensor.grad, torch.full((7,), 0.01))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_layers_start_and_end_where_rounding_left_them(bits: int, per_channel: bool) -> None:
    layer = nn.Conv2d(4, 6, 3, padding=1)
    layer.weight.data = draw(6, 4, 3, 3) * torch.logspace(-3, 1, 6).view(-1, 1, 1, 1)
    learned = LearnableLayer(layer, bits, per_channel=per_channel)
    # As reconstruction does, some weights go to the level that is not the nearest.
    up = torch.rand(learned.q.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    learned.q = (learned.q + up).clamp(max=2**bits - 1)
    learned.phase = Phase.QUANTIZED
    trained = StepSizeLayer(learned)
    x = draw(2, 4, 8, 8, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(trained(x), learned(x), rtol=1e-4, atol=1e-4)
    deployed = trained.deployed()
    assert torch.equal(deployed.integers, learned.deployed().integers)
    torch.testing.assert_close(deployed(x), learned(x), rtol=1e-4, atol=1e-4)
    assert trained.log_scale.numel() == (6 if per_channel else 1)
    assert trained.bias is not None
    assert not any(p is q for p in trained.parameters() for q in layer.parameters())
    trained(x).square().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in trained.parameters())  # type: ignore[arg-type]
    assert bool(trained.weight.grad.ne(0).any())  # type: ignore[union-attr]


def test_gradient_of_the_scale_is_divided_by_its_number_of_weights() -> None:
    layer = nn.Linear(50, 3)
    learned = LearnableLayer(layer, 4, per_channel=True)
    trained, x = StepSizeLayer(learned), draw(2, 50)
    trained(x).square().sum().backward()
    grid = search_weight_grid(layer.weight, 4)
    log_scale = torch.zeros(3, 1, requires_grad=True)
    scaled = WeightGrid(4, grid.scale * log_scale.exp(), grid.step, grid.offset)
    weight = quantize_weight(trained.weight.detach() * grid.scale, scaled)
    torch.nn.functional.linear(x, weight, layer.bias).square().sum().backward()
    assert log_scale.grad is not None and trained.log_scale.grad is not None
    expected = log_scale.grad / (50 * 7) ** 0.5
    torch.testing.assert_close(trained.log_scale.grad, expected, rtol=1e-4, atol=1e-6)


def test_activations_learn_their_step_size() -> None:
    learned = LearnableActivation(3, quantize_prob=0.5)
    learned.set_range(draw(1000).relu())
    trained = StepSizeActivation(learned)
    x = draw(4, 5, 6, 6, seed=1).relu().requires_grad_(True)
    out = trained(x)
    out.sum().backward()
    scale = float(learned.scale)
    expected = torch.tensor([lsq_gradients(v, scale, 0, 7) for v in x.detach().flatten().tolist()])
    torch.testing.assert_close(out.detach().flatten(), expected[:, 0], rtol=1e-5, atol=1e-5)
    # Three of the paper's conventions meet: values within half a step of the last level count as
    # inside here, as in PyTorch, which moves a gradient of at most half a step.
    factor = (5 * 6 * 6 * 7) ** -0.5
    assert trained.log_scale.grad is not None
    near = ((x / scale > 7) & (x / scale < 7.5)).sum()
    assert float(trained.log_scale.grad) == pytest.approx(
        float(expected[:, 1].sum()) * scale * factor,
        abs=float(near) * 8 * scale * factor + 1e-3,
    )
    torch.testing.assert_close(trained.deployed()(x), out.detach(), rtol=1e-5, atol=1e-5)


def test_what_was_pruned_is_zero_whatever_its_parameter_is() -> None:
    layer, kept = nn.Linear(20, 3), draw(3, 20, seed=4) > 0
    layer.weight.data.mul_(kept)
    trained = StepSizeLayer(LearnableLayer(layer, 4, per_channel=True, mask=kept))
    trained.weight.data.add_(5.0)
    trained(draw(2, 20)).square().sum().backward()
    assert trained.weight.grad is not None
    assert not trained.weight.grad[~kept].any() and trained.weight.grad[kept].any()
    assert not trained.deployed().weight()[~kept].any()
