"""Views for calibration: the images themselves, and mixtures where images are few."""

from __future__ import annotations

import pytest
import torch

from mixmix.compression.quantization.views import calibration_views

IMAGES = torch.rand(10, 3, 12, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [0, 9, 10])
def test_enough_images_are_left_alone(count: int) -> None:
    assert torch.equal(calibration_views(IMAGES, count, seed=0), IMAGES)


@pytest.mark.parametrize("count", [11, 20, 37])
def test_mixtures_follow_the_images(count: int) -> None:
    views = calibration_views(IMAGES, count, seed=0)
    assert views.shape == (count, *IMAGES.shape[1:])
    assert torch.equal(views[:10], IMAGES)
    assert views.min() >= 0 and views.max() <= 1
    flat = views.flatten(1)
    assert len(torch.unique(flat, dim=0)) == count
    # A mixture has most of its pixels from one image, shifted or mirrored.
    for view in views[10:]:
        known = [(view[None] == other).all(1).flatten(1).float().mean(1) for other in _moved()]
        assert torch.stack(known).max() > 0.4


def test_seed_decides() -> None:
    first, again, other = (calibration_views(IMAGES, 25, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_image_is_mixed_with_itself() -> None:
    assert calibration_views(IMAGES[:1], 3, seed=0).shape == (3, 3, 12, 8)


def _moved() -> list[torch.Tensor]:
    shifts = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    moved = [torch.roll(IMAGES, shift, dims=(2, 3)) for shift in shifts]
    return [*moved, *(images.flip(3) for images in moved)]
