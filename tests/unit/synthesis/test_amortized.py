from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_networks import INPUT_SHAPE, tiny_teacher

from mixmix import AmortizedSettings, Zoo, recipe
from mixmix.errors import InputError
from mixmix.synthesis.amortized import AmortizedSynthesizer
from mixmix.synthesis.generator import ImageGenerator
from mixmix.synthesis.terms import Similarity

SETTINGS = AmortizedSettings(
    steps=3,
    batch_size=8,
    terms=(*recipe("mixmix").terms, Similarity(weight=10.0)),
    num_latents=24,
    latent_size=8,
    width=4,
)


def rounds(synthesizer: AmortizedSynthesizer, count: int) -> torch.Tensor:
    return torch.cat([b.images for _ in range(count) for b in synthesizer.make()])


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20), (5, 7, 9), (3, 224, 160)])
def test_generator_draws_images_of_any_size(shape: tuple[int, int, int]) -> None:
    with torch.no_grad():
        images = ImageGenerator(shape, latent_size=6, width=2)(torch.randn(3, 6))
    assert images.shape == (3, *shape)
    assert bool((images > 0).all()) and bool((images < 1).all())


class TestRounds:
    def test_shapes_ranges_and_labels(self, zoo: Zoo) -> None:
        batches = AmortizedSynthesizer(zoo, SETTINGS, seed=0).make()
        assert len(batches) == 2
        for batch in batches:
            assert batch.images.shape == (8, *INPUT_SHAPE) and batch.labels.shape == (8,)
            assert torch.equal(batch.images, (batch.images * 255).round() / 255)
            assert set(batch.labels.tolist()) <= set(range(4))
            assert {"ce", "bn", "similarity"} <= set(batch.losses)

    def test_same_seed_same_bits_whatever_the_threads(self, zoo: Zoo) -> None:
        before = torch.get_num_threads()
        try:
            found = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.append(rounds(AmortizedSynthesizer(zoo, SETTINGS, seed=3), 2))
        finally:
            torch.set_num_threads(before)
        assert torch.equal(*found)
        assert not torch.equal(found[0], rounds(AmortizedSynthesizer(zoo, SETTINGS, seed=4), 2))

    def test_goes_on_from_its_tensors(self, zoo: Zoo) -> None:
        first = AmortizedSynthesizer(zoo, SETTINGS, seed=0)
        rounds(first, 2)
        second = AmortizedSynthesizer(zoo, SETTINGS, seed=0)
        second.load(first.tensors())
        assert torch.equal(rounds(first, 1), rounds(second, 1))

    def test_learns_from_round_to_round(self) -> None:
        settings = replace(SETTINGS, batch_size=16, num_latents=32)
        synthesizer = AmortizedSynthesizer(Zoo([tiny_teacher("plain")]), settings, seed=0)

        def loss() -> float:
            return sum(batch.losses["bn"] + batch.losses["ce"] for batch in synthesizer.make())

        first = sum(loss() for _ in range(3))
        rounds(synthesizer, 25)
        assert sum(loss() for _ in range(3)) < 0.9 * first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_latents": 15}, "num_latents must be a whole number >= 16, got 15"),
        ({"meta_rate": 0.0}, "meta_rate must be in"),
        ({"latent_rate": float("inf")}, "latent_rate must be a finite number > 0"),
        ({"width": 0}, "width must be a whole number >= 1"),
        ({"steps": 0}, "steps must be a whole number >= 1"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SETTINGS, **changes)
