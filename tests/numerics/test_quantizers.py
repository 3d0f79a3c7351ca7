"""Grids and ranges against brute force and known constants."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixmix.compress.quantize.dropping import random_mask
from mixmix.compress.quantize.learnable import LearnableActivation, LearnableLayer, Phase
from mixmix.compress.quantize.quantizers import search_activation_range, search_weight_grid


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("bits", "distortion"),
    # J. Max (1960), "Quantizing for minimum distortion", table II: mean squared error of the best
    # uniform quantizer of a standard normal variable with 4, 8 and 16 levels.
    [(2, 0.1188), (3, 0.03744), (4, 0.01154)],
)
def test_weight_grid_comes_close_to_the_best_uniform_quantizer(
    bits: int, distortion: float
) -> None:
    weight = draw(1, 100_000)
    grid = search_weight_grid(weight, bits)
    error = float((grid.value(grid.nearest(weight)) - weight).square().mean())
    # Four bits keep zero a level, which the best quantizer does not have.
    assert distortion * 0.97 < error < distortion * (1.08 if bits < 4 else 1.15)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_are_integers_times_the_scale_of_their_channel(bits: int) -> None:
    weight = draw(5, 4, 3, 3) * torch.tensor([0.1, 1, 10, 0.01, 3]).view(-1, 1, 1, 1)
    grid = search_weight_grid(weight, bits)
    q = grid.nearest(weight)
    assert torch.equal(grid.integers(q).float() * grid.scale, grid.value(q))
    assert q.min() >= 0 and q.max() <= 2**bits - 1
    relative = (grid.value(q) - weight).flatten(1).norm(dim=1) / weight.flatten(1).norm(dim=1)
    assert float(relative.max()) < {2: 0.5, 3: 0.3, 4: 0.15, 8: 0.01}[bits]


def test_a_sparse_channel_keeps_its_zeros() -> None:
    weight = torch.zeros(1, 100)
    weight[0, :20] = 1.0
    grid = search_weight_grid(weight, 2)
    assert torch.allclose(grid.value(grid.nearest(weight)), weight)


def test_one_scale_per_layer() -> None:
    grid = search_weight_grid(draw(4, 8), 4, per_channel=False)
    assert grid.scale.shape == (4, 1)
    assert len(grid.scale.unique()) == 1


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("shift", [0.0, -1.0, 2.0])
def test_activation_range_beats_the_full_range_and_keeps_zero(bits: int, shift: float) -> None:
    sample = draw(20_000) + shift
    found = search_activation_range(sample, bits)

    def error(scale: torch.Tensor, zero_point: torch.Tensor) -> float:
        q = ((sample / scale).round() + zero_point).clamp(0, 2**bits - 1)
        return float((((q - zero_point) * scale) - sample).square().mean())

    low, high = sample.min().clamp(max=0), sample.max().clamp(min=0)
    full = (high - low) / (2**bits - 1)
    assert error(found.scale, found.zero_point) <= error(full, (-low / full).round())
    assert float(found.zero_point) == round(float(found.zero_point))
    assert 0 <= float(found.zero_point) <= 2**bits - 1


def test_soft_rounding_starts_at_the_float_weights() -> None:
    layer = nn.Conv2d(3, 4, 3)
    learnable = LearnableLayer(layer, 4, per_channel=True)
    learnable.start_learning()
    learnable.phase = Phase.LEARN
    grid = learnable.grid
    clipped = grid.value(grid.position(layer.weight).clamp(0, grid.largest))
    assert torch.allclose(learnable.weight(), clipped, atol=1e-5)
    learnable.finish_learning()
    learnable.phase = Phase.QUANTIZED
    assert torch.allclose(learnable.weight(), grid.value(grid.nearest(layer.weight)), atol=1e-6)


def test_step_size_gradient_is_that_of_lsq() -> None:
    # Esser et al. 2020, eq. 3: round(v/s) - v/s inside, the clipping level outside.
    quantizer = LearnableActivation(2, quantize_prob=1.0)
    quantizer.set_range(torch.tensor([0.0, 3.0]))
    quantizer.scale.data.fill_(1.0)
    quantizer.scale.requires_grad_(True)
    quantizer.phase = Phase.LEARN
    x = torch.tensor([0.3, 1.4, 2.6, 9.0, -4.0])
    quantizer(x).sum().backward()
    expected = (0 - 0.3) + (1 - 1.4) + (3 - 2.6) + 3 + 0
    assert float(quantizer.scale.grad) == pytest.approx(expected, abs=1e-5)  # type: ignore[arg-type]


def test_phases_agree_where_nothing_is_dropped() -> None:
    quantizer = LearnableActivation(4, quantize_prob=1.0)
    x = draw(1000)
    quantizer.set_range(x)
    quantizer.phase = Phase.LEARN
    learned = quantizer(x)
    quantizer.phase = Phase.QUANTIZED
    assert torch.allclose(learned, quantizer(x), atol=1e-6)
    assert torch.allclose(quantizer.deployed()(x), quantizer(x), atol=1e-6)
    quantizer.phase = Phase.FLOAT
    assert torch.equal(quantizer(x), x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_random_mask_keeps_its_share_and_layout(memory_format: torch.memory_format) -> None:
    like = draw(7, 5, 33, 31).contiguous(memory_format=memory_format)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mask = random_mask(like, 0.25)
    assert mask.stride() == like.stride()
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    # Five standard deviations of the mean of as many coins.
    assert abs(float(mask.mean()) - 0.25) < 5 * (0.25 * 0.75 / like.numel()) ** 0.5
    # Neighbors share a random number, but not its bits.
    flat = mask.permute(0, 2, 3, 1) if mask.stride()[1] == 1 else mask
    pairs = flat.reshape(-1)
    assert abs(float((pairs[1:] * pairs[:-1]).mean()) - 0.0625) < 0.01


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_affine_grids_suit_one_sided_weights(bits: int, per_channel: bool) -> None:
    weight = torch.rand(6, 40, generator=torch.Generator().manual_seed(0)) + 0.1
    weight[::2] *= -1 if per_channel else 1
    errors = []
    for symmetric in (True, False):
        grid = search_weight_grid(weight, bits, per_channel=per_channel, symmetric=symmetric)
        q = grid.nearest(weight)
        integers, zero_point = grid.integers(q).float(), grid.zero_point
        assert integers.abs().max() <= 2 ** max(bits - 1, 3)
        assert torch.equal(zero_point, zero_point.round()) and zero_point.abs().max() <= 128
        torch.testing.assert_close((integers - zero_point) * grid.scale, grid.value(q))
        errors.append(float((grid.value(q) - weight).square().sum()))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_activations_have_zero_in_the_middle_or_at_the_end(bits: int) -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)) + 0.4
    signed = search_activation_range(values, bits, symmetric=True)
    assert float(signed.zero_point) == 2 ** (bits - 1)
    positive = search_activation_range(values.relu(), bits, symmetric=True)
    assert float(positive.zero_point) == 0
    if bits == 8:
        reach = float(values.abs().max())
        assert float(signed.scale) <= reach / 127 * 1.001
