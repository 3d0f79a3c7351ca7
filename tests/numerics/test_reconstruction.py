"""The pieces of the reconstruction of a unit."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch.nn import functional as F

from mixmix.compress.quantize.reconstruction import ReconstructionSettings, loss_gradient, rates_at
from mixmix.compress.unit_batches import draw_batches, images_in_step
from mixmix.runtime import compiled
from mixmix.runtime.rates import cosine_decay


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shape", [(9, 5, 4, 3), (9, 5, 1, 1), (9, 5)])
def test_loss_gradient_is_that_of_the_squared_error_summed_over_channels(
    shape: tuple[int, ...], fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fused:
        monkeypatch.setattr(compiled, "numba", None)
    targets, chosen = draw(*shape), torch.tensor([3, 3, 8, 0])
    if len(shape) == 4:
        targets = targets.contiguous(memory_format=torch.channels_last)
    outputs = draw(4, *shape[1:], seed=1).requires_grad_(True)
    (F.mse_loss(outputs, targets[chosen]) * shape[1]).backward()
    found = loss_gradient(outputs.detach(), targets, chosen)
    assert outputs.grad is not None
    assert torch.allclose(found, outputs.grad, atol=1e-6)


def test_batches_take_every_image_before_one_comes_again() -> None:
    batches = draw_batches(10, 4, generator=torch.Generator().manual_seed(0))
    order = torch.cat(list(islice(batches, 10)))
    assert all(sorted(part.tolist()) == list(range(10)) for part in order.split(10))
    assert not torch.equal(order[:10], order[10:20])
    few = draw_batches(3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.bincount(next(few), minlength=3).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ((64, 3, 8, 8), (64, 9, 4, 4), 32),
        ((64, 3, 16, 16), (64, 9, 8, 8), 16),
        ((64, 3, 8, 8), (64, 9, 16, 16), 16),
        ((64, 3, 224, 224), (64, 9, 112, 112), 8),
        ((64, 3), (64, 9), 32),
    ],
)
def test_large_images_come_in_small_batches(
    inputs: tuple[int, ...], outputs: tuple[int, ...], expected: int
) -> None:
    settings = ReconstructionSettings(batch_size=32, max_positions=4096)
    assert images_in_step(torch.empty(inputs), torch.empty(outputs), settings) == expected


def test_pull_grows_and_scales_settle() -> None:
    settings = ReconstructionSettings()
    first, middle, last = (rates_at(progress, settings) for progress in (0.0, 0.5, 1.0))
    assert [r.regularization / settings.rounding_regularization for r in (first, middle, last)] == [
        0.0,
        0.5,
        1.0,
    ]
    assert first.scale == settings.weight_scale_rate and last.scale == pytest.approx(0)
    assert cosine_decay(0.5) == pytest.approx(0.5)
