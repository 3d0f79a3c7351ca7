"""Data mixing: shrink one image into a box of another (MixMix, Li et al. 2021, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Boxes", "draw_boxes", "mix_images"]


class Boxes(NamedTuple):
    """One box per image, in pixels: tensors (N,), with ``top + height <= H``."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def fraction(self, size: tuple[int, int]) -> Tensor:
        """Fraction (N,) in (0, 1] that each box covers of an image of ``size`` (H, W)."""
        return (self.height * self.width).float() / (size[0] * size[1])


def draw_boxes(
    count: int,
    size: tuple[int, int],
    area: tuple[float, float],
    *,
    generator: torch.Generator,
) -> Boxes:
    """Draw ``count`` boxes with the aspect ratio of the image, uniform in area and position.

    Args:
        size: (H, W) of the images.
        area: smallest and largest fraction of the image to cover.
        generator: CPU generator.
    """
    fractions = torch.empty(count).uniform_(*area, generator=generator)
    sides = []
    for length in size:
        side = (fractions.sqrt() * length).round().long().clamp(1, length)
        start = (torch.rand(count, generator=generator) * (length - side + 1)).long()
        sides.append((start, side))
    (top, height), (left, width) = sides
    return Boxes(top, left, height, width)


def mix_images(images: Tensor, others: Tensor, boxes: Boxes) -> Tensor:
    """``(1 - mask) * images + mask * resize(others, box)``, differentiable in both.

    Each other image is resized (bilinearly) into the box as a whole, unlike the crop of CutMix.

    Args:
        images: (N, C, H, W).
        others: (N, C, H, W), the second image of each pair.
        boxes: one per pair.

    Returns:
        (N, C, H, W).
    """
    height, width = images.shape[2:]
    rows, row_inside = _source_coordinates(height, boxes.top, boxes.height)
    columns, column_inside = _source_coordinates(width, boxes.left, boxes.width)
    x, y = columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)
    grid = torch.stack([x, y], dim=-1).to(images)
    resized = F.grid_sample(
        others, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    mask = (row_inside[:, :, None] & column_inside[:, None, :])[:, None].to(images.device)
    return torch.where(mask, resized, images)


def _source_coordinates(length: int, start: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """Source coordinate in [-1, 1] of each target pixel (N, length), and whether it is inside."""
    centers = torch.arange(length) + 0.5
    relative = (centers - start[:, None]) / side[:, None]
    return relative * 2 - 1, (relative > 0) & (relative < 1)
