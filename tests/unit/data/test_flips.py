"""Images are not mirrored where that changes their class."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_networks import INPUT_SHAPE
from torch import Tensor, nn

from mixmix import Augmentation, ImageSet, Model, ModelSpec, SynthesisSettings, Zoo, compress
from mixmix.compress.train.augmentation import fitting
from mixmix.data.flips import flip_agreement, with_flips_decided
from mixmix.data.views import with_mixtures
from mixmix.errors import MixmixWarning
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
