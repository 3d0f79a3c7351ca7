from __future__ import annotations

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, tiny_teacher

from mixmix import SynthesisSettings, Zoo
from mixmix.models.observation import BatchNormStatistics
from mixmix.synthesis.objective import losses_of
from mixmix.synthesis.observing import combine_statistics


def test_statistics_of_chunks_combine_to_those_of_the_batch() -> None:
    values = torch.randn(10, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 + 1
    stored = torch.zeros(3), torch.ones(3)

    def statistics(some: torch.Tensor) -> list[BatchNormStatistics]:
        var, mean = torch.var_mean(some, dim=(0, 2, 3), correction=0)
        return [BatchNormStatistics(mean, var, *stored)]

    sizes = [4, 4, 2]
    (found,) = combine_statistics([statistics(some) for some in values.split(4)], sizes)
    torch.testing.assert_close(found.mean, statistics(values)[0].mean)
    torch.testing.assert_close(found.var, statistics(values)[0].var)


@pytest.mark.parametrize("chunk_size", [1, 3, 8])
@pytest.mark.parametrize("family", list(NETWORKS))
def test_losses_and_gradients_are_those_of_the_whole_batch(family: str, chunk_size: int) -> None:
    zoo = Zoo([tiny_teacher(family)])
    images = torch.rand(8, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 4

    def gradient(chunk_size: int | None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        pixels = images.clone().requires_grad_(True)
        losses = losses_of(
            zoo,
            pixels,
            labels,
            SynthesisSettings(),
            generator=torch.Generator().manual_seed(2),
            mixing=True,
            chunk_size=chunk_size,
        )
        sum(losses.values(), start=pixels.sum() * 0).backward()
        assert pixels.grad is not None
        return losses, pixels.grad

    (expected, wanted), (found, gradients) = gradient(None), gradient(chunk_size)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(gradients, wanted, rtol=1e-3, atol=1e-6)
