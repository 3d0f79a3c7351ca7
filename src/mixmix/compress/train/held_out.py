"""Images that training does not see, to judge by what it did."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mixmix.compress.train.augmentation import Augmentation, augment
from mixmix.data.image_set import ImageSet
from mixmix.runtime import seeding

__all__ = ["hold_out", "mixtures_of"]

# At least so many images are trained on for each that is held out.
_TRAINED_PER_HELD_OUT = 8
_VIEWS = 8  # of each image that is held out


def hold_out(data: ImageSet, num_images: int) -> tuple[ImageSet, ImageSet | None]:
    """The images to train on, and those to judge by.

    Args:
        data: all of them.
        num_images: to judge by, the last ones; at most one of nine. With none, there is nothing to
            judge by.
    """
    count = min(num_images, len(data) // (_TRAINED_PER_HELD_OUT + 1))
    return data.split(len(data) - count) if count else (data, None)


def mixtures_of(judged: ImageSet, augmentation: Augmentation, *, seed: int) -> Tensor:
    """Several mixed views (N, C, H, W) of each image that is held out, as in training.

    Images by themselves are too easy to judge by: what was optimized as they were is predicted well
    by networks that differ on photographs.
    """
    generator = seeding.generator(seed, "held-out mixtures")
    images = judged.images.repeat(_VIEWS, 1, 1, 1)
    others = images[torch.randperm(len(images), generator=generator)]
    settings = replace(augmentation, mixing_prob=1.0)
    return augment(images, others, settings, generator=generator).images
