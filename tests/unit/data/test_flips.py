"""Images are not mirrored where that changes their class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE
from torch import Tensor, nn

from mixmix import (
    AmortizedSettings,
    Augmentation,
    GeneratedImages,
    ImageSet,
    Model,
    ModelSpec,
    SynthesisSettings,
    Zoo,
    compress,
    load,
    synthesize,
)
from mixmix.compress.train.augmentation import fitting
from mixmix.data.flips import flip_agreement, with_flips_decided
from mixmix.data.views import with_mixtures
from mixmix.errors import InputError, MixmixWarning
from mixmix.models.classes import tell_sides
from mixmix.runtime.storage import read_json
from mixmix.synthesis.objective import losses_of


class Side(nn.Module):
    """Whether the left (or upper) half is brighter."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.head = dim, nn.Linear(2, 2)
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.mean(1).chunk(2, self.dim)
        logits: Tensor = self.head(torch.stack([first.mean((1, 2)), second.mean((1, 2))], 1))
        return logits


def model(dim: int, flip: bool | None = None) -> Model:
    spec = ModelSpec("side", "module", INPUT_SHAPE, 0.5, 0.25, 2, flip=flip)  # type: ignore[arg-type]
    return Model(Side(dim), spec)


def images(of: Model, count: int = 32) -> ImageSet:
    pixels = torch.rand(count, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    soft = of.logits(pixels).softmax(1)
    return ImageSet(pixels, soft.argmax(1), soft, {})


def test_predictions_decide() -> None:
    left, up = model(2), model(1)
    assert (
        flip_agreement(left.logits, images(left)) == 0
        and flip_agreement(up.logits, images(up)) == 1
    )
    with pytest.warns(MixmixWarning, match="only 0% of the images the same class when mirrored"):
        assert with_flips_decided(left, images(left)).flip is False
    assert with_flips_decided(up, images(up)) is up.spec
    assert flip_agreement(left.logits, images(left, count=8)) is None


def test_noise_does_not_decide() -> None:
    left = model(2)
    data = images(left)
    noise = ImageSet(data.images, 1 - data.labels, data.soft_labels, {})
    assert with_flips_decided(left, noise) is left.spec


@pytest.mark.parametrize("flip", [True, False])
def test_the_spec_comes_first(flip: bool) -> None:
    left = model(2, flip)
    assert with_flips_decided(left, images(left)).flip is flip
    assert fitting(Augmentation(), left.spec).flip is flip
    assert Zoo([left]).may_flip is flip


def test_compress_records_the_decision() -> None:
    left = model(2)
    with pytest.warns(MixmixWarning, match="when mirrored"):
        assert compress(left, images(left), "W8A8").spec.flip is False


def test_no_view_is_mirrored() -> None:
    ramp = torch.linspace(0, 1, INPUT_SHAPE[2]).expand(4, *INPUT_SHAPE).contiguous()
    seen = []
    left = model(2, flip=False)

    class Watched(Model):
        def observe(self, images: Tensor, **options: object):  # type: ignore[no-untyped-def, override]
            seen.append(images)
            return super().observe(images, **options)  # type: ignore[arg-type]

    watched = Watched(Side(2), replace(left.spec))
    settings = SynthesisSettings(jitter=0, mixing_fraction=0.0)
    draws = torch.Generator().manual_seed(0)
    for _ in range(8):
        labels = torch.zeros(4, dtype=torch.long)
        losses_of(Zoo([watched]), ramp, labels, settings, generator=draws, mixing=False)
    assert all(each.equal(ramp) for each in seen)
    mirrored = with_mixtures(ramp, 8, seed=0), with_mixtures(ramp, 8, seed=0, flip=False)
    assert mirrored[1].shape == mirrored[0].shape


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (tuple("0123456789"), True),
        (("0 - zero", "1 - one"), True),
        (("A", "b", "ä"), True),
        (("Stop", "TurnLeft"), True),
        (("keep_right", "stop"), True),
        ((), False),
        (tuple(map(str, range(100))), False),
        (("T-shirt", "x-ray"), False),
        (("right whale", "upright piano"), False),
        (("zebra one", "LABEL_0"), False),
        (("A", *(f"class {i}" for i in range(200))), False),
    ],
)
def test_names_of_classes(names: tuple[str, ...], expected: bool) -> None:
    assert tell_sides(names) is expected


def test_names_switch_flips_off() -> None:
    digits = load(model(1), classes=("0", "1"))
    assert not Zoo([digits]).may_flip and not fitting(Augmentation(), digits.spec).flip
    settings = SynthesisSettings(num_images=16, batch_size=16, iterations=1)
    for call in (
        lambda: synthesize([digits], settings),
        lambda: compress(digits, images(digits), "W8A8"),
    ):
        with pytest.warns(MixmixWarning, match=r"not mirrored, since classes of side \(0, 1\)"):
            call()
    assert Zoo([load(digits, flip=True)]).may_flip


def test_finished_images_are_judged(tmp_path: Path) -> None:
    settings = SynthesisSettings(num_images=32, batch_size=32, iterations=1, jitter=0)
    for dim, least, most in ((2, 0.0, 0.0), (1, 1.0, 1.0)):
        side, out = model(dim), tmp_path / str(dim)
        start = images(side)
        made = synthesize([side], replace(settings, flip=False), start=start)
        assert "flip_agreement" not in made.manifest
        for _ in range(2):  # also when it is only read
            made = synthesize([side], settings, start=start, out=out)
            assert least <= made.manifest["flip_agreement"] <= most
        assert read_json(out / "manifest.json") == made.manifest


def test_images_of_a_network_that_forbids_flips_are_not_mirrored() -> None:
    up = model(1)
    data = images(up)
    made = ImageSet(data.images, data.labels, data.soft_labels, {"models": [{"flip": False}]})
    assert with_flips_decided(up, made).flip is False
    fresh = GeneratedImages(Zoo([model(1, flip=False)]))
    source = fresh.source(up.module, up.spec, seed=0)
    assert source.may_flip is False  # type: ignore[attr-defined]


def test_generated_images_have_the_classes_of_the_teacher() -> None:
    synthesis = AmortizedSettings(batch_size=8, batches_at_once=1, steps=1)
    zoo = Zoo([load(model(1), classes=("low", "high"))])
    fresh = GeneratedImages(zoo, synthesis, warmup_rounds=0, first_rounds=1)

    def labels(*names: str) -> list[int]:
        spec = replace(model(1).spec, classes=names, num_classes=len(names))
        empty = torch.zeros(0, *INPUT_SHAPE), torch.zeros(0, dtype=torch.long)
        source = fresh.source(Side(1), spec, seed=0)
        found = source.images_for(0, Side(1), ImageSet(*empty, torch.zeros(0, len(names)), {}))
        assert found is not None
        return found.labels.tolist()

    same = labels("low", "high")
    assert labels("middle", "high", "low") == [{0: 2, 1: 1}[label] for label in same]
    with pytest.raises(InputError, match="has no classes high, which labels of the zoo name"):
        labels("middle", "low")
