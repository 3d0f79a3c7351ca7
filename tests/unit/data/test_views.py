"""Views for calibration: the images themselves, and mixtures of warped ones where they are few."""

from __future__ import annotations

import pytest
import torch

from mixmix.data.views import with_mixtures

IMAGES = torch.rand(10, 3, 12, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [0, 9, 10])
def test_enough_images_are_left_alone(count: int) -> None:
    assert torch.equal(with_mixtures(IMAGES, count, seed=0), IMAGES)


@pytest.mark.parametrize("count", [11, 20, 37])
def test_mixtures_follow_the_images(count: int) -> None:
    views = with_mixtures(IMAGES, count, seed=0)
    assert views.shape == (count, *IMAGES.shape[1:])
    assert torch.equal(views[:10], IMAGES)
    assert views.min() >= 0 and views.max() <= 1
    flat = views.flatten(1)
    assert len(torch.unique(flat, dim=0)) == count


def test_a_mixture_shows_two_images() -> None:
    colors = IMAGES[:, :, :1, :1].expand(-1, -1, 12, 8)
    for view in with_mixtures(colors, 60, seed=0)[10:]:
        shares = [torch.isclose(view, c, atol=1e-5).all(0).float().mean() for c in colors]
        first, second, *rest = sorted(map(float, shares), reverse=True)
        assert first >= 0.4
        assert first + second == pytest.approx(1)
        assert sum(rest) == 0


def test_most_views_are_warped() -> None:
    views = with_mixtures(IMAGES, 60, seed=0)[10:]
    known = [(views[:, None] == other).all(2).flatten(2).float().mean(2) for other in _moved()]
    most = torch.stack(known).amax((0, 2))  # of each view's pixels, from one image as it is
    assert 0 < int((most > 0.4).sum()) < len(views) / 3


def test_seed_decides() -> None:
    first, again, other = (with_mixtures(IMAGES, 25, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_image_is_mixed_with_itself() -> None:
    assert with_mixtures(IMAGES[:1], 3, seed=0).shape == (3, 3, 12, 8)


def _moved() -> list[torch.Tensor]:
    shifts = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    moved = [torch.roll(IMAGES, shift, dims=(2, 3)) for shift in shifts]
    return [*moved, *(images.flip(3) for images in moved)]
