"""Random views of images: shifted and flipped, and mixtures of warped ones."""

from __future__ import annotations

import torch
from torch import Tensor

from mixmix.data.mixing import draw_boxes, mix_images
from mixmix.data.warping import WIDE_WARPS, draw_warps, warp_images
from mixmix.runtime import seeding

__all__ = ["jitter_and_flip", "with_mixtures"]

# As in synthesis, where statistics are matched on such views.
_JITTER = 2
_BOX_AREA = (0.1, 0.5)
# Images that get the same shift and flip.
_GROUP_SIZE = 8


def jitter_and_flip(
    images: Tensor, *, jitter: int, flip: bool, generator: torch.Generator
) -> Tensor:
    """Roll a batch (N, C, H, W) by up to ``jitter`` pixels, and flip it with probability 1/2.

    Differentiable; all images get the same shift and flip (DeepInversion, Yin et al. 2020).
    ``generator`` is a CPU generator.
    """
    if jitter:
        shift = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
        images = torch.roll(images, shift, dims=(2, 3))
    if flip and bool(torch.rand((), generator=generator) < 0.5):
        images = images.flip(3)
    return images


def with_mixtures(images: Tensor, count: int, *, seed: int, flip: bool = True) -> Tensor:
    """Images followed by mixtures of their views, ``count`` in total, to fit units to.

    Views are shifted, flipped and mostly warped (see ``warping``); a mixture is a view with another
    one shrunk into a box, as in synthesis (see ``mixing``). Outputs of units are thus matched for
    more contexts, sizes and combinations than in the images themselves.

    Args:
        images: (N, C, H, W) in [0, 1].
        count: number of images; up to N, the images are returned unchanged.
        flip: whether views may be mirrored.
    """
    draws = seeding.generator(seed, "views")
    size = (images.shape[2], images.shape[3])
    batches, missing = [images], count - len(images)
    while missing > 0:
        views = torch.cat(
            [
                jitter_and_flip(group, jitter=_JITTER, flip=flip, generator=draws)
                for group in images.split(_GROUP_SIZE)
            ]
        )
        views = warp_images(views, draw_warps(len(views), size, WIDE_WARPS, generator=draws))
        partners = torch.randperm(len(images), generator=draws).to(images.device)
        boxes = draw_boxes(len(images), size, _BOX_AREA, generator=draws)
        batches.append(mix_images(views, views[partners], boxes)[:missing])
        missing -= len(batches[-1])
    return torch.cat(batches)
