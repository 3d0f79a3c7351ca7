"""What happens from step to step: rates, scales, mixing, who is drawn, and what learns."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from tiny_networks import tiny_teacher
from torch import Tensor

from mixmix import AmortizedSettings, SynthesisSettings, Zoo, recipe, synthesize
from mixmix.data.mixing import mix_images
from mixmix.synthesis.amortized import AmortizedSynthesizer
from mixmix.synthesis.generator import LatentBank
from mixmix.synthesis.loop import stage_at
from mixmix.synthesis.terms import (
    L2,
    BatchNormDistance,
    CrossEntropy,
    Similarity,
    Term,
    TotalVariation,
)

LOOP = import_module("mixmix.synthesis.loop")
SETTINGS = SynthesisSettings(num_images=4, batch_size=4, iterations=8)


def images_of(zoo: Zoo, settings: SynthesisSettings, **options: Any) -> Tensor:
    return synthesize(zoo, settings, seed=0, **options).images


class Rates(torch.optim.Adam):
    """Keeps the learning rate of every step, and the size of what is optimized."""

    seen: list[tuple[float, int]] = []

    def step(self, closure: Any = None) -> Any:
        group = self.param_groups[0]
        self.seen.append((group["lr"], group["params"][0].shape[-1]))
        return super().step(closure)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    Rates.seen = []
    monkeypatch.setattr(torch.optim, "Adam", Rates)
    return Rates.seen


class TestPixels:
    def test_the_learning_rate_falls_along_a_cosine(
        self, zoo: Zoo, rates: list[tuple[float, int]]
    ) -> None:
        images_of(zoo, replace(SETTINGS, learning_rate=0.2))
        expected = [0.1 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
        assert [rate for rate, _ in rates] == pytest.approx(expected)

    def test_it_does_not_begin_anew_at_another_scale(
        self, zoo: Zoo, rates: list[tuple[float, int]]
    ) -> None:
        images_of(zoo, replace(SETTINGS, scales=(0.25, 0.5, 1.0)))
        assert [size for _, size in rates] == [4, 4, 4, 8, 8, 8, 16, 16]
        assert all(later < earlier for (earlier, _), (later, _) in zip(rates, rates[1:]))  # noqa: B905

    @pytest.mark.parametrize(
        ("iterations", "num_stages", "expected"),
        [(6, 1, [0] * 6), (6, 2, [0, 0, 0, 1, 1, 1]), (5, 2, [0, 0, 0, 1, 1]), (3, 3, [0, 1, 2])],
    )
    def test_stages_are_equally_long(
        self, iterations: int, num_stages: int, expected: list[int]
    ) -> None:
        assert [stage_at(i, iterations, num_stages) for i in range(iterations)] == expected

    def test_scales_change_the_images(self, zoo: Zoo) -> None:
        whole = images_of(zoo, SETTINGS)
        assert not torch.equal(whole, images_of(zoo, replace(SETTINGS, scales=(0.5, 1.0))))

    @pytest.mark.parametrize(
        ("fraction", "expected"),
        [(0.0, []), (0.25, [3, 7]), (0.5, [1, 3, 5, 7]), (1.0, list(range(8)))],
    )
    def test_mixing_follows_its_schedule(
        self, fraction: float, expected: list[int], zoo: Zoo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        objective, losses_of = import_module("mixmix.synthesis.objective"), LOOP.losses_of
        steps, mixed = [0], []

        def counted(*args: Any, **options: Any) -> dict[str, Tensor]:
            found: dict[str, Tensor] = losses_of(*args, **options)
            steps[0] += 1
            return found

        def mix(*args: Any) -> Tensor:
            mixed.append(steps[0])
            return mix_images(*args)

        monkeypatch.setattr(LOOP, "losses_of", counted)
        monkeypatch.setattr(objective, "mix_images", mix)
        images_of(zoo, replace(SETTINGS, mixing_fraction=fraction))
        assert mixed == expected


class TestWeights:
    @pytest.mark.parametrize(
        "term",
        [
            BatchNormDistance(),
            CrossEntropy(),
            TotalVariation(weight=0.1),
            L2(),
            Similarity(),
        ],
        ids=lambda term: term.kind,
    )
    def test_twice_the_weight_gives_twice_the_loss_and_other_images(
        self, term: Term, zoo: Zoo
    ) -> None:
        twice = replace(term, weight=2 * term.weight)
        found = {}
        for each in (term, twice):
            settings = recipe("mixmix", num_images=8, batch_size=8, iterations=4).with_term(each)
            data = synthesize(zoo, settings, seed=0)
            found[each.weight] = data.images, data.manifest["shards"][0]["losses"]
        (once, losses), (other, doubled) = found.values()
        assert doubled[0][term.kind] == pytest.approx(2 * losses[0][term.kind], rel=1e-5)
        assert not torch.equal(once, other)

    def test_a_weight_of_zero_is_no_term(self, zoo: Zoo) -> None:
        without = images_of(zoo, SETTINGS.without_term("tv"))
        assert torch.equal(images_of(zoo, SETTINGS.with_term(TotalVariation(weight=0.0))), without)

    @pytest.mark.parametrize("distance", ["absolute", "relative"])
    def test_the_first_layer_counts_as_often_as_asked(self, distance: str) -> None:
        zoo = Zoo([tiny_teacher("residual")])

        def first_loss(multiplier: float) -> tuple[float, Tensor]:
            term = BatchNormDistance(distance=distance, first_multiplier=multiplier)
            data = synthesize(zoo, SETTINGS.with_term(term), seed=0)
            return data.manifest["shards"][0]["losses"][0]["bn"], data.images

        (zero, _), (one, images), (three, others) = (first_loss(m) for m in (0.0, 1.0, 3.0))
        assert one > zero
        assert three - zero == pytest.approx(3 * (one - zero), rel=1e-3)
        assert not torch.equal(images, others)

    def test_balance_gives_members_the_weight_of_equally_many_layers(self) -> None:
        zoo = Zoo([tiny_teacher(name) for name in ("plain", "residual")])
        depths = [len(teacher.batch_norms) for teacher in zoo]
        assert depths[0] != depths[1]
        settings = replace(SETTINGS, members_per_step=None, iterations=1)

        def bn(some: Zoo, balance: bool) -> float:
            term = BatchNormDistance(distance="absolute", balance=balance)
            data = synthesize(some, settings.with_term(term), seed=0)
            return float(data.manifest["shards"][0]["losses"][0]["bn"])

        alone = [bn(Zoo([teacher]), True) for teacher in zoo]
        mean = sum(depths) / 2
        balanced = sum(loss * mean / depth for loss, depth in zip(alone, depths, strict=True)) / 2
        assert bn(zoo, True) == pytest.approx(balanced, rel=1e-4)
        assert bn(zoo, False) == pytest.approx(sum(alone) / 2, rel=1e-4)


class TestAmortized:
    SETTINGS = AmortizedSettings(
        steps=3,
        batch_size=8,
        terms=(*recipe("mixmix").terms, Similarity(weight=10.0)),
        num_latents=24,
        latent_size=8,
        width=4,
    )

    def test_latents_of_a_round_learn_and_the_others_stay(self, zoo: Zoo) -> None:
        synthesizer = AmortizedSynthesizer(zoo, self.SETTINGS, seed=0)
        before = synthesizer.tensors()
        synthesizer.make()
        after = synthesizer.tensors()
        moved = (after["latents"] != before["latents"]).any(1)
        assert int(moved.sum()) == self.SETTINGS.images_per_round == 16
        assert any(not torch.equal(after[name], before[name]) for name in after if "stem" in name)

    def test_latents_move_a_part_of_the_way(self, zoo: Zoo) -> None:
        bank = LatentBank(zoo, 12, 4, seed=0)
        before, chosen = bank.values.clone(), torch.tensor([7, 2])
        bank.move(chosen, torch.ones(2, 4), 0.25)
        torch.testing.assert_close(bank.values[chosen], 0.75 * before[chosen] + 0.25)
        others = [index for index in range(12) if index not in (2, 7)]
        assert torch.equal(bank.values[others], before[others])

    def test_what_latents_learned_is_not_noise_alone(self, zoo: Zoo) -> None:
        """At a rate of zero, they would be where their noise put them."""

        def latents(rate: float) -> Tensor:
            settings = replace(self.SETTINGS, latent_rate=rate, meta_rate=1.0)
            synthesizer = AmortizedSynthesizer(zoo, settings, seed=0)
            synthesizer.make()
            return synthesizer.tensors()["latents"]

        still, learned = latents(1e-12), latents(5e-2)
        # Adam moves each number by about its rate, at each of three steps.
        distance = (learned - still).abs()
        assert 0.05 < float(distance[distance > 0].mean()) <= 0.16

    def test_latents_of_a_class_are_alike(self, zoo: Zoo) -> None:
        bank = LatentBank(zoo, 400, 64, seed=0)
        assert torch.equal(bank.labels.bincount(), torch.full((4,), 100))
        rows = torch.nn.functional.normalize(bank.values, dim=1)
        cosines = rows @ rows.T
        same = bank.labels[:, None] == bank.labels[None, :]
        same.fill_diagonal_(False)
        assert float(cosines[same].mean()) == pytest.approx(0.5, abs=0.1)
        assert abs(float(cosines[bank.labels[:, None] != bank.labels[None, :]].mean())) < 0.2

    def test_images_begin_near_their_latents(self, zoo: Zoo) -> None:
        bank = LatentBank(zoo, 400, 64, seed=0)
        chosen = torch.arange(0, 400, 2)
        found = bank.near(chosen, torch.Generator().manual_seed(1))
        assert found.requires_grad
        assert float((found.detach() - bank.values[chosen]).std()) == pytest.approx(0.3, abs=0.01)

    def test_similarity_pushes_images_of_a_class_apart(self, zoo: Zoo) -> None:
        def similarity(weight: float) -> float:
            settings = self.SETTINGS.with_term(Similarity(weight=weight))
            synthesizer = AmortizedSynthesizer(zoo, settings, seed=0)
            for _ in range(6):
                batches = synthesizer.make()
            return sum(batch.losses["similarity"] for batch in batches) / weight

        assert similarity(30.0) < 0.9 * similarity(0.01)
