"""Terms as settings, and a term from outside through all that synthesis does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tiny_networks import tiny_teacher
from torch import Tensor

from mixmix import AmortizedSettings, SynthesisSettings, Zoo, generate, recipe, synthesize
from mixmix import _settings as settings_module
from mixmix.errors import InputError
from mixmix.report.curves import loss_curves_svg
from mixmix.synthesis.schedule import plan, shard_bytes
from mixmix.synthesis.terms import (
    L2,
    BatchNormDistance,
    BatchObservation,
    CrossEntropy,
    Similarity,
    Term,
    TotalVariation,
)

SMALL: dict[str, Any] = {"num_images": 6, "batch_size": 4, "iterations": 3}
BUILT_IN = {
    "bn": BatchNormDistance,
    "ce": CrossEntropy,
    "tv": TotalVariation,
    "l2": L2,
    "similarity": Similarity,
}


@dataclass(frozen=True)
class Contrast(Term):
    """As a user writes it in her own file."""

    kind: ClassVar[str] = "test-contrast"
    target: float = 0.25

    def __call__(self, batch: BatchObservation) -> Tensor:
        return (batch.images.std() - self.target).square()


@dataclass(frozen=True)
class Heavy(Term):
    """Keeps a hundred copies of every image."""

    kind: ClassVar[str] = "test-heavy"

    def __call__(self, batch: BatchObservation) -> Tensor:
        return torch.cat([batch.images] * 100).sin().mean()


@dataclass(frozen=True)
class Given(Term):
    """Gives whatever it is told to."""

    kind: ClassVar[str] = "test-given"
    what: str = "none"

    def __call__(self, batch: BatchObservation) -> Tensor | None:
        if self.what == "none":
            return None
        return batch.images.mean((1, 2, 3)) if self.what == "rows" else 1.0  # type: ignore[return-value]


class TestSettings:
    @pytest.mark.parametrize("kind", list(BUILT_IN))
    def test_built_in_terms_are_written_and_read_back(self, kind: str) -> None:
        term = BUILT_IN[kind](weight=2.5)
        plain = json.loads(json.dumps(term.to_dict()))
        assert plain["term"] == kind and plain["weight"] == 2.5
        assert Term.from_dict(plain) == term

    def test_a_term_from_outside_is_too(self) -> None:
        settings = recipe("mixmix").with_term(Contrast(weight=3.0, target=0.1))
        plain = json.loads(json.dumps(settings.to_dict()))
        assert plain["terms"][-1] == {"term": "test-contrast", "weight": 3.0, "target": 0.1}
        assert SynthesisSettings.from_dict(plain) == settings
        amortized = AmortizedSettings().with_term(Contrast())
        assert AmortizedSettings.from_dict(json.loads(json.dumps(amortized.to_dict()))) == amortized

    def test_and_one_that_an_entry_point_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Point:
            name, value = "test-elsewhere", "elsewhere:Term"

            @staticmethod
            def load() -> type[Term]:
                @dataclass(frozen=True)
                class Elsewhere(Contrast):
                    kind: ClassVar[str] = "test-elsewhere"

                return Elsewhere

        def points(group: str) -> Iterator[type[Point]]:
            yield from [Point] if group == "mixmix.terms" else []

        monkeypatch.setattr(settings_module, "entry_points", points)
        settings_module.load_entry_points.cache_clear()
        try:
            term = Term.from_dict({"term": "test-elsewhere", "target": 0.5})
        finally:
            settings_module.load_entry_points.cache_clear()
        assert type(term).__name__ == "Elsewhere" and term.weight == 1.0

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"terms": [{"term": "unheard-of"}]}, "unknown term 'unheard-of'; known"),
            ({"terms": [{"weight": 1.0}]}, "the table needs a term: "),
            ({"terms": [{"term": "ce", "sharpness": 1}]}, "CrossEntropy has no 'sharpness'"),
            ({"terms": [{"term": "ce", "weight": "1"}]}, "CrossEntropy.weight must be a number"),
            ({"bn_weight": 2.0}, "SynthesisSettings has no 'bn_weight'"),
        ],
    )
    def test_what_is_unknown_is_refused(self, content: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            SynthesisSettings.from_dict(content)

    @pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan"), None, "1"])
    @pytest.mark.parametrize("kind", list(BUILT_IN))
    def test_weights_out_of_range(self, kind: str, weight: Any) -> None:
        with pytest.raises(InputError, match=r"\.weight must be a finite number >= 0, got"):
            BUILT_IN[kind](weight=weight)

    def test_distances_out_of_range(self) -> None:
        with pytest.raises(InputError, match="distance must be one of auto, absolute, relative"):
            BatchNormDistance(distance="euclidean")
        with pytest.raises(InputError, match="first_multiplier must be a finite number >= 0"):
            BatchNormDistance(first_multiplier=-1.0)

    def test_two_of_a_kind(self) -> None:
        with pytest.raises(InputError, match="terms has 2 terms of the kind 'ce', expected one"):
            SynthesisSettings(terms=(CrossEntropy(), TotalVariation(), CrossEntropy(weight=2.0)))

    @pytest.mark.parametrize("terms", ["ce", (1.0,), (CrossEntropy,), None])
    def test_what_is_no_term(self, terms: Any) -> None:
        with pytest.raises(InputError, match="terms must be a sequence of terms"):
            SynthesisSettings(terms=terms)

    def test_a_kind_that_is_taken(self) -> None:
        with pytest.raises(InputError, match="has the kind 'ce' of .*CrossEntropy"):

            class Sharper(CrossEntropy):
                pass

        assert type(Term.from_dict({"term": "ce"})) is CrossEntropy

    def test_a_class_without_a_kind(self) -> None:
        class Nameless(Term):
            def __call__(self, batch: BatchObservation) -> None:
                return None

        with pytest.raises(InputError, match="Nameless has no kind"):
            Nameless()

    def test_terms_in_another_order_are_the_same_settings(self) -> None:
        terms = recipe("mixmix").terms
        assert SynthesisSettings(terms=terms[::-1]) == recipe("mixmix")
        every = SynthesisSettings(terms=(Contrast(), *(cls() for cls in BUILT_IN.values())))
        assert [term.kind for term in every.terms] == [*BUILT_IN, "test-contrast"]

    def test_changing_one_term(self) -> None:
        settings = recipe("mixmix")
        changed = settings.with_term(CrossEntropy(weight=2.0)).with_term(L2())
        assert [t.kind for t in changed.terms] == ["bn", "ce", "tv", "l2"]
        assert changed.terms[1].weight == 2.0
        assert changed.without_term("l2").with_term(CrossEntropy()) == settings
        with pytest.raises(InputError, match="no term 'l2' to remove; there are bn, ce, tv"):
            settings.without_term("l2")

    def test_amortized_settings_have_the_same_ways(self) -> None:
        settings = AmortizedSettings()
        assert settings.without_term("similarity").with_term(Similarity(weight=10.0)) == settings


class TestTermFromOutside:
    SETTINGS = recipe("mixmix", **SMALL).with_term(Contrast(weight=50.0, target=0.4))

    def test_is_optimized_recorded_and_drawn(self, zoo: Zoo) -> None:
        data = synthesize(zoo, self.SETTINGS, seed=0)
        without = synthesize(zoo, self.SETTINGS.without_term("test-contrast"), seed=0)
        assert data.images.std() > without.images.std()
        assert data.manifest["settings"]["terms"][-1] == Contrast(50.0, 0.4).to_dict()
        rows = data.manifest["shards"][0]["losses"]
        assert all("test-contrast" in row for row in rows)
        assert "test-contrast" in (loss_curves_svg(data.manifest["shards"]) or "")

    def test_an_interrupted_run_goes_on_and_another_term_is_another_run(
        self, zoo: Zoo, tmp_path: Path
    ) -> None:
        def stop(what: str, fraction: float) -> None:
            shards = -(-self.SETTINGS.num_images // self.SETTINGS.batch_size)
            if round(shards * self.SETTINGS.iterations * fraction) >= 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            synthesize(zoo, self.SETTINGS, seed=0, out=tmp_path, on_progress=stop)
        assert [path.name for path in tmp_path.glob("*.safetensors")] == ["shard-00000.safetensors"]
        data = synthesize(zoo, self.SETTINGS, seed=0, out=tmp_path)
        assert torch.equal(data.images, synthesize(zoo, self.SETTINGS, seed=0).images)
        other = self.SETTINGS.with_term(Contrast(weight=50.0, target=0.3))
        change = r"terms\.test-contrast\.target: 0\.4, now 0\.3"
        with pytest.raises(
            InputError, match=rf"other settings \({change}\); choose another folder"
        ):
            synthesize(zoo, other, seed=0, out=tmp_path)

    def test_serves_amortized_synthesis(self, zoo: Zoo) -> None:
        settings = AmortizedSettings(
            steps=2, batch_size=4, num_latents=8, latent_size=8, width=4
        ).with_term(Contrast())
        data = generate(zoo, settings, num_images=4, warmup_rounds=0, seed=0)
        assert "test-contrast" in data.manifest["shards"][0]["losses"][0]

    def test_its_memory_is_planned_for(self, zoo: Zoo) -> None:
        plain, heavy = recipe("mixmix", **SMALL), recipe("mixmix", **SMALL).with_term(Heavy())
        copies = 100 * 3 * 16 * 16 * 4 * SMALL["batch_size"]
        assert shard_bytes(zoo, heavy) - shard_bytes(zoo, plain) > copies
        assert plan(zoo, heavy).peak_bytes > plan(zoo, plain).peak_bytes

    def test_one_that_does_not_apply_is_left_out(self, zoo: Zoo) -> None:
        settings = recipe("mixmix", **SMALL)
        data = synthesize(zoo, settings.with_term(Given()), seed=0)
        assert "test-given" not in data.manifest["shards"][0]["losses"][0]
        assert torch.equal(data.images, synthesize(zoo, settings, seed=0).images)

    @pytest.mark.parametrize(("what", "message"), [("rows", r"shape \(4,\)"), ("number", "1.0")])
    def test_one_that_gives_no_scalar(self, what: str, message: str, zoo: Zoo) -> None:
        settings = recipe("mixmix", **SMALL).with_term(Given(what=what))
        with pytest.raises(InputError, match=f"'test-given' returned {message}, expected a scalar"):
            synthesize(zoo, settings, seed=0)


class TestWhatApplies:
    """Whether there is anything to invert is asked of the terms."""

    @pytest.mark.parametrize(
        ("network", "kinds"),
        [("plain", {"bn", "ce"}), ("no-batch-norm", {"ce"})],
    )
    def test_to_a_network(self, network: str, kinds: set[str]) -> None:
        zoo = Zoo([tiny_teacher(network)])
        assert {kind for kind, cls in BUILT_IN.items() if cls().applies_to(zoo)} == kinds

    @pytest.mark.parametrize("terms", [(), (TotalVariation(), L2()), (CrossEntropy(weight=0.0),)])
    def test_nothing(self, terms: tuple[Term, ...], zoo: Zoo) -> None:
        with pytest.raises(InputError, match="nothing to invert"):
            synthesize(zoo, SynthesisSettings(**SMALL, terms=terms), seed=0)
        with pytest.raises(InputError, match="nothing to invert"):
            generate(zoo, AmortizedSettings(terms=terms), num_images=4, seed=0)

    def test_a_term_from_outside_suffices(self, zoo: Zoo) -> None:
        data = synthesize(zoo, SynthesisSettings(**SMALL, terms=(Contrast(),)), seed=0)
        assert set(data.manifest["shards"][0]["losses"][0]) == {"iteration", "test-contrast"}
