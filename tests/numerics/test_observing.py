from __future__ import annotations

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, tiny_teacher
from torch import nn

from mixmix import Model, SynthesisSettings, Zoo
from mixmix.models.observation import BatchNormStatistics
from mixmix.synthesis.objective import losses_of
from mixmix.synthesis.observing import combine_statistics, observe
from mixmix.synthesis.terms import PatchEntropy


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


class Tokens(nn.Module):
    """Patches, a LayerNorm over them, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        logits: torch.Tensor = self.head(self.norm(tokens).mean(1))
        return logits


def test_entropies_of_patches_are_those_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    teacher = Model(Tokens(), tiny_teacher("plain").spec)
    images = torch.rand(5, *INPUT_SHAPE)
    whole = observe(teacher, images, [PatchEntropy()])
    pieces = observe(teacher, images.requires_grad_(), [PatchEntropy()], chunk_size=2)
    torch.testing.assert_close(pieces.of_tokens["patch"], whole.of_tokens["patch"])
    pieces.of_tokens["patch"].sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert not observe(teacher, images).of_tokens
