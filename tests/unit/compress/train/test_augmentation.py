from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixmix.compress.train.augmentation import Augmentation, augment
from mixmix.errors import InputError

PLAIN = Augmentation(shift=0, flip=False, mixing_prob=0.0)


def draw(count: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 12, 10, generator=torch.Generator().manual_seed(seed))


def augmented(settings: Augmentation, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return augment(draw(), draw(seed=1), settings, generator=generator)


def test_plain_settings_change_nothing() -> None:
    assert torch.equal(augmented(PLAIN), draw())


def test_views_are_shifted_and_flipped_each_for_itself() -> None:
    images = augmented(Augmentation(shift=2, mixing_prob=0.0))
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
    views = augment(smooth, smooth, turned, generator=generator)
    # Some of these are turned by almost 180 degrees: dark where they were bright.
    assert (views - smooth.flip(2, 3)).abs().amax((1, 2, 3)).min() < 0.1
    assert (views - smooth).abs().amax((1, 2, 3)).min() < 0.1


def test_what_is_enlarged_shows_the_middle() -> None:
    zoomed = Augmentation(
        shift=0, flip=False, mixing_prob=0.0, warp_prob=1.0, rotation=0, zoom=4.0, stretch=1.0
    )
    dot = torch.zeros(64, 1, 12, 12)
    dot[:, :, 4:8, 4:8] = 1
    views = augment(dot, dot, zoomed, generator=torch.Generator().manual_seed(0))
    share = views.mean((1, 2, 3))
    assert share.max() > 0.8 and views.min() >= 0 and views.max() <= 1


def test_some_are_warped_within_the_range_of_pixels() -> None:
    images = augmented(Augmentation(shift=0, flip=False, mixing_prob=0.0, warp_prob=0.5))
    same = [torch.equal(one, other) for one, other in zip(images, draw(), strict=True)]
    assert 0 < sum(same) < 8
    assert images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize("mixing", ["shrink", "cutmix", "mixup"])
def test_the_second_image_takes_a_fraction_within_the_range(mixing: str) -> None:
    area = (0.3, 0.4)
    settings = Augmentation(shift=0, flip=False, mixing=(mixing,), mixing_prob=1.0, box_area=area)
    black, white = torch.zeros(16, 3, 40, 40), torch.ones(16, 3, 40, 40)
    images = augment(black, white, settings, generator=torch.Generator().manual_seed(0))
    fractions = images.mean((1, 2, 3))
    # Sides of boxes are whole pixels.
    assert area[0] - 0.03 < float(fractions.min()) and float(fractions.max()) < area[1] + 0.03
    assert len(fractions.unique()) > 1
    is_whole = torch.allclose(images.round(), images, atol=1e-5)
    assert is_whole is (mixing != "mixup")


def test_some_are_mixed() -> None:
    images = augmented(Augmentation(shift=0, flip=False, mixing_prob=0.5))
    changed = (images != draw()).flatten(1).any(1)
    assert 0 < int(changed.sum()) < 8


def test_ranks_share_the_batch_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Augmentation(warp_prob=0.7, mixing=("shrink", "cutmix", "mixup"))
    whole = augmented(settings, seed=3)
    for rank in range(2):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 2), ("MASTER_ADDR", "localhost")):
            monkeypatch.setenv(name, str(value))
        mine = slice(4 * rank, 4 * rank + 4)
        generator = torch.Generator().manual_seed(3)
        part = augment(draw()[mine], draw(seed=1)[mine], settings, generator=generator)
        torch.testing.assert_close(part, whole[mine])


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
    ],
)
def test_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmentation(**changes)  # type: ignore[arg-type]
