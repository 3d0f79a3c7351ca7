"""Random affine warps: rotation, zoom and stretch about the center."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["WIDE_WARPS", "WarpRange", "Warps", "draw_warps", "warp_images"]


class WarpRange(NamedTuple):
    """Range of random warps.

    Attributes:
        fraction: expected fraction of images that are warped, in [0, 1].
        rotation: largest angle in degrees, in both directions.
        zoom: largest factor, >= 1, by which an image is enlarged or shrunk.
        stretch: largest ratio, >= 1, between the zooms of height and width.
    """

    fraction: float
    rotation: float
    zoom: float
    stretch: float


# Best for recovering pruned and quantized networks, on training images of CIFAR-10.
WIDE_WARPS = WarpRange(fraction=0.9, rotation=40.0, zoom=1.75, stretch=1.8)


class Warps(NamedTuple):
    """One warp per image.

    Attributes:
        matrix: (N, 2, 3), as ``theta`` of ``torch.nn.functional.affine_grid``.
        chosen: (N,) bool, whether an image is warped.
    """

    matrix: Tensor
    chosen: Tensor


def draw_warps(
    count: int, size: tuple[int, int], within: WarpRange, *, generator: torch.Generator
) -> Warps:
    """Draw ``count`` warps, uniform in the angle and the logarithms of zoom and stretch.

    Args:
        size: (H, W) of the images.
        generator: CPU generator.
    """
    height, width = size

    def uniform(largest: float) -> Tensor:
        return torch.empty(count).uniform_(-largest, largest, generator=generator)

    angle = uniform(math.radians(within.rotation))
    factor, ratio = uniform(math.log(within.zoom)), uniform(math.log(within.stretch) / 2)
    chosen = torch.rand(count, generator=generator) < within.fraction
    down, right = (factor + ratio).exp(), (factor - ratio).exp()
    cosine, sine, none = angle.cos(), angle.sin(), torch.zeros(count)
    from_x = torch.stack([right * cosine, -right * sine * height / width, none], 1)
    from_y = torch.stack([down * sine * width / height, down * cosine, none], 1)
    return Warps(torch.stack([from_x, from_y], 1), chosen)


def warp_images(images: Tensor, warps: Warps) -> Tensor:
    """Warp the chosen images of (N, C, H, W), with reflection padding."""
    matrix = warps.matrix.to(images)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    warped = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return torch.where(warps.chosen.to(images.device).view(-1, 1, 1, 1), warped, images)
