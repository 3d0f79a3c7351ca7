"""Views of the images that units are fitted to: where images are few, mixtures join them."""

from __future__ import annotations

import torch
from torch import Tensor

from mixmix.data.mixing import draw_boxes, mix_images
from mixmix.data.shifts import jitter_and_flip
from mixmix.data.warping import WIDE_WARPS, draw_warps, warp_images
from mixmix.runtime import seeding

__all__ = ["with_mixtures"]

# As in synthesis, which made the network's statistics hold for such views.
_JITTER = 2
_BOX_AREA = (0.1, 0.5)
# Images that are shifted and mirrored alike.
_ALIKE = 8


def with_mixtures(images: Tensor, count: int, *, seed: int) -> Tensor:
    """The images, then mixtures of warped ones until they are ``count``.

    Images are shifted, mirrored and most of them warped (see ``warping``); each mixture is one with
    another shrunk into a box of it, as in synthesis (see ``mixing``). The network's units are thus
    asked for what they give to other neighborhoods, sizes and pairs than the images have by
    themselves.

    Args:
        images: (N, C, H, W) in [0, 1].
        count: where it is at most N, the images alone are returned.
        seed: of shifts, partners and boxes.

    Returns:
        (max(N, count), C, H, W).
    """
    draws = seeding.generator(seed, "views")
    size = (images.shape[2], images.shape[3])
    parts, missing = [images], count - len(images)
    while missing > 0:
        views = torch.cat(
            [
                jitter_and_flip(some, jitter=_JITTER, flip=True, generator=draws)
                for some in images.split(_ALIKE)
            ]
        )
        views = warp_images(views, draw_warps(len(views), size, WIDE_WARPS, generator=draws))
        partners = torch.randperm(len(images), generator=draws).to(images.device)
        boxes = draw_boxes(len(images), size, _BOX_AREA, generator=draws)
        parts.append(mix_images(views, views[partners], boxes)[:missing])
        missing -= len(parts[-1])
    return torch.cat(parts)
