"""Random views and mixtures of training images, independent of the number of processes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixmix._settings import Settings
from mixmix.data.mixing import Boxes, draw_boxes, mix_images
from mixmix.data.warping import WIDE_WARPS, WarpRange, Warps, draw_warps, warp_images
from mixmix.models.spec import ModelSpec
from mixmix.runtime import distributed

__all__ = ["WIDE_VIEWS", "Augmentation", "augment", "fitting"]

_MIXINGS = ("shrink", "cutmix", "mixup")


@dataclass(frozen=True)
class Augmentation(Settings):
    """Augmentation of training images: shift, flip and warp each, then mix pairs.

    Attributes:
        shift: largest shift in pixels in each direction; borders are filled by reflection.
        flip: flip each image horizontally with probability 1/2, unless the network's ``flip`` is
            False.
        warp_prob: probability that an image is warped: rotated, zoomed and stretched.
        rotation: largest rotation in degrees in each direction.
        zoom: largest factor, >= 1, by which an image is enlarged or shrunk; shrunk images are
            surrounded by their reflection.
        stretch: largest ratio, >= 1, of the zoom factors of height and width.
        mixing: ways to mix two images, one of which is drawn for each pair: ``shrink`` (the second
            image, shrunk into a box of the first, as in synthesis), ``cutmix`` (a box of the
            second; Yun et al. 2019), ``mixup`` (a weighted sum; Zhang et al. 2018).
        mixing_prob: probability that an image is mixed with another.
        box_area: smallest and largest fraction of the area, or of the weights, of the second image.

    Raises:
        InputError: if a value is out of range.

    Examples:
        >>> mixmix.Augmentation(mixing=("cutmix", "mixup")).mixing_prob
        0.5
    """

    shift: int = 4
    flip: bool = True
    warp_prob: float = 0.0
    rotation: float = 20.0
    zoom: float = 1.4
    stretch: float = 1.35
    mixing: tuple[str, ...] = ("shrink",)
    mixing_prob: float = 0.5
    box_area: tuple[float, float] = (0.1, 0.5)

    def __post_init__(self) -> None:
        object.__setattr__(self, "box_area", tuple(self.box_area))
        object.__setattr__(self, "mixing", tuple(self.mixing))
        self._require_int("shift", least=0)
        self._require_range("warp_prob", "mixing_prob", low=0, high=1)
        self._require_range("rotation", low=0, high=180)
        self._require_range("zoom", "stretch", low=1)
        is_mixing = len(self.mixing) > 0 and set(self.mixing) <= set(_MIXINGS)
        self._require(is_mixing, "mixing", f"some of {', '.join(_MIXINGS)}")
        is_area = len(self.box_area) == 2 and 0 < self.box_area[0] <= self.box_area[1] < 1
        self._require(is_area, "box_area", "two increasing numbers within (0, 1)")

    @property
    def warps(self) -> WarpRange:
        """Range of the warps."""
        return WarpRange(self.warp_prob, self.rotation, self.zoom, self.stretch)


WIDE_VIEWS = Augmentation(
    warp_prob=WIDE_WARPS.fraction,
    rotation=WIDE_WARPS.rotation,
    zoom=WIDE_WARPS.zoom,
    stretch=WIDE_WARPS.stretch,
)


def fitting(settings: Augmentation, spec: ModelSpec) -> Augmentation:
    """The settings for a network, without flips if they change its classes."""
    return settings if spec.may_flip else replace(settings, flip=False)


def augment(
    images: Tensor, others: Tensor, settings: Augmentation, *, generator: torch.Generator
) -> Tensor:
    """Draw a view of each image and of its partner, and mix some of the pairs.

    Args:
        images: (N, C, H, W) in [0, 1], this process's part of a batch.
        others: (N, C, H, W) their partners.
        settings: what is done to the images.
        generator: a CPU generator in the same state in all processes, since random numbers are
            drawn for the whole batch.

    Returns:
        Images (N, C, H, W) in [0, 1].
    """
    count = len(images) * distributed.world_size()
    size = (images.shape[2], images.shape[3])
    views = _view(images, settings, generator)
    partners = _view(others, settings, generator)
    fractions = torch.empty(count).uniform_(*settings.box_area, generator=generator)
    boxes = draw_boxes(count, size, settings.box_area, generator=generator)
    way = torch.randint(len(settings.mixing), (count,), generator=generator)
    way[torch.rand(count, generator=generator) >= settings.mixing_prob] = -1
    fractions, way, *parts = (distributed.slice_of_batch(t) for t in (fractions, way, *boxes))
    boxes = Boxes(*parts)
    mixed = views
    for index, name in enumerate(settings.mixing):
        if name == "mixup":
            candidate = views.lerp(partners, fractions.to(views).view(-1, 1, 1, 1))
        elif name == "cutmix":
            candidate = torch.where(_inside(boxes, size).to(views.device), partners, views)
        else:
            candidate = mix_images(views, partners, boxes)
        chosen = (way == index).to(views.device).view(-1, 1, 1, 1)
        mixed = torch.where(chosen, candidate, mixed)
    return mixed


def _view(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Shift, flip and warp each image independently."""
    count = len(images) * distributed.world_size()
    height, width = images.shape[2:]
    shift = torch.randint(-settings.shift, settings.shift + 1, (2, count), generator=generator)
    flipped = torch.rand(count, generator=generator) < (0.5 if settings.flip else 0.0)
    down, right, flipped = (distributed.slice_of_batch(t) for t in (*shift, flipped))
    rows = _reflected(torch.arange(height) + down[:, None], height)
    columns = torch.arange(width).expand(len(images), -1)
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    columns = _reflected(columns + right[:, None], width)
    index = torch.arange(len(images))
    views = images[
        index.view(-1, 1, 1, 1),
        torch.arange(images.shape[1]).view(1, -1, 1, 1),
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
    if settings.warp_prob:
        warps = draw_warps(count, (height, width), settings.warps, generator=generator)
        views = warp_images(views, Warps(*(distributed.slice_of_batch(t) for t in warps)))
    return views


def _reflected(index: Tensor, length: int) -> Tensor:
    """Reflect indices outside of [0, length) at the first and the last one."""
    period = max(1, 2 * (length - 1))
    index = index.remainder(period)
    return torch.where(index >= length, period - index, index)


def _inside(boxes: Boxes, size: tuple[int, int]) -> Tensor:
    """(N, 1, H, W) bool, True inside the boxes."""
    top, left, height, width = boxes
    rows, columns = torch.arange(size[0]), torch.arange(size[1])
    row_inside = (rows >= top[:, None]) & (rows < (top + height)[:, None])
    column_inside = (columns >= left[:, None]) & (columns < (left + width)[:, None])
    return (row_inside[:, :, None] & column_inside[:, None, :])[:, None]
