"""Warped images: turned, enlarged or shrunk, and stretched about their center."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["WIDE_WARPS", "WarpRange", "Warps", "draw_warps", "warp_images"]


class WarpRange(NamedTuple):
    """How far warps may go.

    Attributes:
        share: of the images that are warped, in [0, 1].
        rotation: largest angle in degrees each way.
        zoom: largest factor, >= 1, by which an image is enlarged or shrunk.
        stretch: largest ratio, >= 1, of the factors of its height and width.
    """

    share: float
    rotation: float
    zoom: float
    stretch: float


# As wide as does most good where a network is fitted to itself as it was: chosen on images of the
# training split of CIFAR-10, for pruned and for quantized networks.
WIDE_WARPS = WarpRange(share=0.9, rotation=40.0, zoom=1.75, stretch=1.8)


class Warps(NamedTuple):
    """A warp for each image.

    Attributes:
        matrix: (N, 2, 3) where each pixel comes from: x and y, in halves of the width and height.
        chosen: (N,) bool, which images are warped at all.
    """

    matrix: Tensor
    chosen: Tensor


def draw_warps(
    count: int, size: tuple[int, int], within: WarpRange, *, generator: torch.Generator
) -> Warps:
    """Draw ``count`` warps, uniform in the angle and in the logarithms of the factors.

    Args:
        size: (H, W) of the images.
        within: how far they may go.
        generator: a CPU generator.
    """
    height, width = size

    def uniform(largest: float) -> Tensor:
        return torch.empty(count).uniform_(-largest, largest, generator=generator)

    angle = uniform(math.radians(within.rotation))
    factor, ratio = uniform(math.log(within.zoom)), uniform(math.log(within.stretch) / 2)
    chosen = torch.rand(count, generator=generator) < within.share
    down, right = (factor + ratio).exp(), (factor - ratio).exp()
    cosine, sine, none = angle.cos(), angle.sin(), torch.zeros(count)
    from_x = torch.stack([right * cosine, -right * sine * height / width, none], 1)
    from_y = torch.stack([down * sine * width / height, down * cosine, none], 1)
    return Warps(torch.stack([from_x, from_y], 1), chosen)


def warp_images(images: Tensor, warps: Warps) -> Tensor:
    """Images (N, C, H, W), those that are chosen warped; their mirror image is around them."""
    matrix = warps.matrix.to(images)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    warped = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return torch.where(warps.chosen.to(images.device).view(-1, 1, 1, 1), warped, images)
