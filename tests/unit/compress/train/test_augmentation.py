from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixmix.compress.train.augmentation import Augmentation, augment
from mixmix.errors import InputError

PLAIN = Augmentation(shift=0, flip=False, mixing_prob=0.0)


def draw(count: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 12, 10, generator=torch.Generator().manual_seed(seed))


def augmented(settings: Augmentation, seed: int = 0) -> tuple[Tensor, Tensor]:
    mixture = augment(draw(), draw(seed=1), settings, generator=torch.Generator().manual_seed(seed))
    return mixture.images, mixture.fraction


def test_nothing_asked_for_changes_nothing() -> None:
    images, share = augmented(PLAIN)
    assert torch.equal(images, draw())
    assert not share.any()


def test_views_are_shifted_and_flipped_each_for_itself() -> None:
    images, _ = augmented(Augmentation(shift=2, mixing_prob=0.0))
    found = set()
    for image, original in zip(images, draw(), strict=True):
        padded = torch.nn.functional.pad(original[None], (2, 2, 2, 2), mode="reflect")[0]
        candidates = {
            (down, right, flip): view.flip(2) if flip else view
            for down in range(5)
            for right in range(5)
            for flip in (False, True)
            for view in [padded[:, down : down + 12, right : right + 10]]
        }
        matches = [key for key, view in candidates.items() if torch.equal(view, image)]
        assert len(matches) == 1
        found.add(matches[0])
    assert len(found) > 4


def test_images_are_turned_by_up_to_the_angle() -> None:
    turned = Augmentation(
        shift=0, flip=False, mixing_prob=0.0, warp_prob=1.0, rotation=180, zoom=1.0, stretch=1.0
    )
    generator = torch.Generator().manual_seed(0)
    smooth = torch.linspace(0, 1, 120).view(1, 1, 12, 10).expand(64, 3, -1, -1)
    views = augment(smooth, smooth, turned, generator=generator).images
    # Some of these are turned by almost 180 degrees: dark where they were bright.
    assert (views - smooth.flip(2, 3)).abs().amax((1, 2, 3)).min() < 0.1
    assert (views - smooth).abs().amax((1, 2, 3)).min() < 0.1


def test_what_is_enlarged_shows_the_middle() -> None:
    zoomed = Augmentation(
        shift=0, flip=False, mixing_prob=0.0, warp_prob=1.0, rotation=0, zoom=4.0, stretch=1.0
    )
    dot = torch.zeros(64, 1, 12, 12)
    dot[:, :, 4:8, 4:8] = 1
    views = augment(dot, dot, zoomed, generator=torch.Generator().manual_seed(0)).images
    share = views.mean((1, 2, 3))
    assert share.max() > 0.8 and views.min() >= 0 and views.max() <= 1


def test_some_are_warped_within_the_range_of_pixels() -> None:
    images, _ = augmented(Augmentation(shift=0, flip=False, mixing_prob=0.0, warp_prob=0.5))
    same = [torch.equal(one, other) for one, other in zip(images, draw(), strict=True)]
    assert 0 < sum(same) < 8
    assert images.min() >= 0 and images.max() <= 1


def test_contrast_and_brightness_stay_in_range() -> None:
    images, _ = augmented(
        Augmentation(shift=0, flip=False, mixing_prob=0.0, contrast=0.9, brightness=0.5)
    )
    assert images.min() >= 0 and images.max() <= 1
    assert not torch.allclose(images, draw())


def test_contrast_spreads_pixels_about_their_mean_and_brightness_adds() -> None:
    gray = 0.4 + 0.2 * draw()  # so that nothing is cut off
    for contrast, brightness in ((0.5, 0.0), (0.0, 0.1)):
        settings = Augmentation(
            0, False, 0.0, 20.0, 1.4, 1.35, contrast, brightness, ("shrink",), 0.0
        )
        views = augment(gray, gray, settings, generator=torch.Generator().manual_seed(0)).images
        moved = views.mean((1, 2, 3)) - gray.mean((1, 2, 3))
        spread = views.std((1, 2, 3)) / gray.std((1, 2, 3))
        assert float(moved.abs().max()) <= brightness + 1e-5
        assert float((spread - 1).abs().max()) <= contrast + 1e-5
        assert len((spread if contrast else moved).unique()) == len(gray)
        assert torch.allclose(moved if contrast else spread - 1, torch.zeros(8), atol=1e-5)


@pytest.mark.parametrize("mixing", ["shrink", "cutmix", "mixup"])
def test_share_is_that_of_the_second_image(mixing: str) -> None:
    settings = Augmentation(shift=0, flip=False, mixing=(mixing,), mixing_prob=1.0)
    mixture = augment(
        torch.zeros(6, 3, 12, 10),
        torch.ones(6, 3, 12, 10),
        settings,
        generator=torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(mixture.images.mean((1, 2, 3)), mixture.fraction)
    assert len(mixture.fraction.unique()) > 1
    is_whole = torch.allclose(mixture.images.round(), mixture.images, atol=1e-5)
    assert is_whole is (mixing != "mixup")


def test_some_are_mixed() -> None:
    _, share = augmented(Augmentation(mixing_prob=0.5))
    assert 0 < int((share > 0).sum()) < 8


def test_ranks_share_the_batch_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Augmentation(
        warp_prob=0.7, contrast=0.2, brightness=0.1, mixing=("shrink", "cutmix", "mixup")
    )
    whole, share = augmented(settings, seed=3)
    for rank in range(2):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 2), ("MASTER_ADDR", "localhost")):
            monkeypatch.setenv(name, str(value))
        mine = slice(4 * rank, 4 * rank + 4)
        part = augment(
            draw()[mine],
            draw(seed=1)[mine],
            settings,
            generator=torch.Generator().manual_seed(3),
        )
        torch.testing.assert_close(part.images, whole[mine])
        assert torch.equal(part.fraction, share[mine])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift": -1}, "shift must be a whole number >= 0, got -1"),
        ({"mixing": ("blend",)}, "mixing must be some of shrink, cutmix, mixup"),
        ({"mixing_prob": 1.5}, "mixing_prob must be in"),
        ({"box_area": (0.5, 0.1)}, "box_area must be two increasing numbers"),
        ({"warp_prob": 2.0}, "warp_prob must be in"),
        ({"rotation": -1}, "rotation must be in"),
        ({"zoom": 0.5}, "zoom must be a finite number >= 1"),
        ({"stretch": 0.5}, "stretch must be a finite number >= 1"),
        ({"contrast": 1.0}, "contrast must be in"),
        ({"brightness": 2.0}, "brightness must be in"),
    ],
)
def test_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmentation(**changes)  # type: ignore[arg-type]
