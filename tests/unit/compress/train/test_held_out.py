from __future__ import annotations

import pytest
import torch
from tiny_networks import tiny_images

from mixmix.compress.train.augmentation import Augmentation
from mixmix.compress.train.held_out import hold_out, mixtures_of


@pytest.mark.parametrize(
    ("count", "wanted", "held"), [(90, 64, 10), (89, 64, 9), (90, 4, 4), (9, 1, 1), (8, 3, 0)]
)
def test_the_last_images_are_held_out_one_of_nine_at_most(
    count: int, wanted: int, held: int
) -> None:
    data = tiny_images(count)
    trained, judged = hold_out(data, wanted)
    assert len(trained) == count - held
    assert (0 if judged is None else len(judged)) == held
    parts = [trained.images] + ([] if judged is None else [judged.images])
    assert torch.equal(torch.cat(parts), data.images)


def test_every_view_is_a_mixture_and_the_seed_decides() -> None:
    data = tiny_images(6)
    plain = Augmentation(0, False)
    views, again, other = (mixtures_of(data, plain, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(views, again) and not torch.equal(views, other)
    assert len(views) % 6 == 0 and len(views) > 6
    known = (views[:, None] == data.images).flatten(2).all(2).any(1)
    assert int(known.sum()) < len(views) / 3  # what is mixed with itself stays nearly the same
