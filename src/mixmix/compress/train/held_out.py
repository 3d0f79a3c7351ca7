"""Held-out images, which decide whether training improved a network."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mixmix.compress.train.augmentation import Augmentation, augment
from mixmix.data.image_set import ImageSet
from mixmix.runtime import seeding

__all__ = ["hold_out", "mixtures_of"]

# Fewest training images for each held-out image.
_TRAINED_PER_HELD_OUT = 8
# Number of mixtures of each held-out image.
_VIEWS = 8


def hold_out(data: ImageSet, num_images: int) -> tuple[ImageSet, ImageSet | None]:
    """Split images into training images and held-out ones, or None if there are too few images.

    Args:
        data: all images.
        num_images: number of images to hold out, from the end; at most one in nine.
    """
    count = min(num_images, len(data) // (_TRAINED_PER_HELD_OUT + 1))
    return data.split(len(data) - count) if count else (data, None)


def mixtures_of(held_out: ImageSet, augmentation: Augmentation, *, seed: int) -> Tensor:
    """Several mixtures (M, C, H, W) of each held-out image, as in training.

    Synthetic images themselves are too easy: networks that differ on photographs agree on them.
    """
    generator = seeding.generator(seed, "held-out mixtures")
    images = held_out.images.repeat(_VIEWS, 1, 1, 1)
    others = images[torch.randperm(len(images), generator=generator)]
    settings = replace(augmentation, mixing_prob=1.0)
    return augment(images, others, settings, generator=generator)
