"""Images that are drawn, not photographed: pink noise and dead leaves."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["dead_leaves", "pink_noise"]

# Leaves of an image, and the range of their radii as fractions of its longer side.
_NUM_LEAVES = 100
_RADII = (0.05, 0.6)
# Fraction of the variance of colors that is independent per channel.
_OWN_FRACTION = 0.1
# Colors: mean, standard deviation of an image's mean, and of a leaf's color around it.
_GRAY, _IMAGE_SPREAD, _LEAF_SPREAD = 0.47, 0.12, 0.22
# Standard deviations, across leaves, of what varies on a leaf: shading, stripes and pink noise.
_SHADING, _STRIPES, _TEXTURE = 0.3, 0.2, 0.08
# Stripes of an image's side, fewest and most.
_FREQUENCIES = (2.0, 16.0)
# Smaller images are drawn at twice their size, since edges are not aligned with pixels.
_LARGE_SIDE = 128
# Pixels drawn at a time.
_CHUNK_PIXELS = 2**20


def pink_noise(
    shape: tuple[int, ...], *, own_fraction: float, generator: torch.Generator
) -> Tensor:
    """Noise (N, C, H, W) with amplitude 1/f and correlated channels, as in photographs.

    Mean 0, standard deviation 1 (Field 1987).

    Args:
        shape: (N, C, H, W).
        own_fraction: fraction of the variance that is independent per channel, in [0, 1].
        generator: CPU generator.
    """
    height, width = shape[2:]
    common = torch.randn(shape[0], 1, height, width, generator=generator)
    own = torch.randn(shape, generator=generator)
    noise = (1 - own_fraction) ** 0.5 * common + own_fraction**0.5 * own
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency = torch.hypot(rows[:, None], columns[None, :])
    frequency[0, 0] = 1 / max(height, width)
    pink: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(height, width))
    return pink.div_(pink.std())


def dead_leaves(shape: tuple[int, int, int, int], *, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W) in [0, 1] of shapes that occlude one another.

    Radii have a power law, which gives edges, flat areas and the spectrum of photographs
    (Lee, Mumford & Huang 2001); networks trained on such images alone see well (Baradad et al.
    2021). A leaf is an ellipse, a rectangle or a rhombus with shading, stripes and pink noise, and
    every image is out of focus by a random amount.

    >>> images = dead_leaves((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    >>> images.shape, bool(images.min() >= 0), bool(images.max() <= 1)
    (torch.Size([2, 3, 32, 32]), True, True)
    """
    count, channels, height, width = shape
    scale = 1 if max(height, width) >= _LARGE_SIDE else 2
    size = (height * scale, width * scale)
    drawn = []
    for chunk in torch.arange(count).split(max(1, _CHUNK_PIXELS // math.prod(size))):
        leaves = _draw((len(chunk), channels, *size), generator)
        drawn.append(_focused(leaves, (height, width), generator))
    return torch.cat(drawn).clamp_(0, 1)


def _draw(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """Leaves with colors, sharp and of any range."""
    count, channels, height, width = shape
    side = max(height, width)
    # Pixel centers in units of the longer side, (1, 1, H, 1) and (1, 1, 1, W).
    rows = (torch.arange(height)[:, None].float() + 0.5)[None, None] / side
    columns = (torch.arange(width)[None, :].float() + 0.5)[None, None] / side
    owner = _leaf_of_pixels(count, rows[0], columns[0], generator).view(count, 1, -1)
    leaves = (count, _NUM_LEAVES + 1)  # the last one is the background

    def per_pixel(values: Tensor) -> Tensor:
        """Values (N, leaves) of the leaf at each pixel, (N, 1, H, W)."""
        return values.gather(1, owner[:, 0]).view(count, 1, height, width)

    colors = _GRAY + _LEAF_SPREAD * _colors((*leaves, channels), generator)
    colors = colors + _IMAGE_SPREAD * _colors((count, 1, channels), generator)
    index = owner.expand(-1, channels, -1)
    images = colors.transpose(1, 2).gather(2, index).view(shape)
    shading = _SHADING * torch.randn(leaves, generator=generator)
    down, right = _directions(leaves, generator)
    images = images + per_pixel(shading * right) * (2 * columns - 1)
    images = images + per_pixel(shading * down) * (2 * rows - 1)
    strength = _STRIPES * torch.randn(leaves, generator=generator).abs()
    down, right = _directions(leaves, generator)
    low, high = map(math.log, _FREQUENCIES)
    frequency = 2 * math.pi * _uniform(leaves, low, high, generator).exp()
    phase = _uniform(leaves, 0, 2 * math.pi, generator)
    angle = per_pixel(frequency * right) * columns + per_pixel(frequency * down) * rows
    images = images + per_pixel(strength) * torch.sin(angle + per_pixel(phase))
    roughness = _TEXTURE * torch.randn(leaves, generator=generator).abs()
    noise = pink_noise(shape, own_fraction=_OWN_FRACTION, generator=generator)
    return images + per_pixel(roughness) * noise


def _leaf_of_pixels(
    count: int, rows: Tensor, columns: Tensor, generator: torch.Generator
) -> Tensor:
    """The index (N, H, W) of the topmost leaf at each pixel; that of the background elsewhere."""
    leaves = (count, _NUM_LEAVES)
    # Uniform in 1/r: radii with density r^-2.
    radius = 1 / _uniform(leaves, 1 / _RADII[1], 1 / _RADII[0], generator)
    stretch = torch.exp2(_uniform(leaves, -0.5, 0.5, generator))
    center_row = _uniform(leaves, 0, rows.max().item(), generator)
    center_column = _uniform(leaves, 0, columns.max().item(), generator)
    down, right = _directions(leaves, generator)
    kind = torch.randint(0, 3, leaves, generator=generator)
    owner = torch.full((count, rows.shape[1], columns.shape[2]), _NUM_LEAVES)

    along = torch.stack((right, down)) / (radius * stretch)
    across = torch.stack((-down, right)) * stretch / radius
    for leaf in range(_NUM_LEAVES):
        y = rows - center_row[:, leaf, None, None]
        x = columns - center_column[:, leaf, None, None]
        # Distances from the center along both axes of the leaf, in units of its radii.
        first, second = (
            (axis[0, :, leaf, None, None] * x + axis[1, :, leaf, None, None] * y).abs()
            for axis in (along, across)
        )
        of_kinds = (torch.hypot(first, second), torch.maximum(first, second), first + second)
        for number, distance in enumerate(of_kinds):
            is_kind = (kind[:, leaf] == number)[:, None, None]
            owner.masked_fill_((distance < 1) & is_kind, leaf)
    return owner


def _focused(images: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Images of a size, each out of focus by a random amount."""
    if tuple(images.shape[2:]) != size:
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    sharpness = torch.rand(len(images), 1, 1, 1, generator=generator)
    return torch.lerp(soft, images, sharpness)


def _colors(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Values (..., C) with mean 0 and standard deviation 1, correlated between channels."""
    common = torch.randn(*shape[:-1], 1, generator=generator)
    own = torch.randn(shape, generator=generator)
    return math.sqrt(1 - _OWN_FRACTION) * common + math.sqrt(_OWN_FRACTION) * own


def _directions(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sine and cosine of random angles."""
    angle = _uniform(shape, 0, 2 * math.pi, generator)
    return angle.sin(), angle.cos()


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator).mul_(high - low).add_(low)
