"""Initial images and labels."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["balanced_labels", "initial_images"]

# Fraction of the variance of pink noise that is independent per channel.
_OWN_FRACTION = 0.25


def balanced_labels(num_images: int, num_classes: int) -> Tensor:
    """Labels (N,) that cycle through the classes, so that every prefix is balanced; zeros if K = 0.

    Fewer images than classes are spread evenly, since neighboring classes are often similar.
    """
    order = torch.arange(num_images)
    if num_images < num_classes:
        return order * num_classes // num_images
    return order % max(num_classes, 1)


def initial_images(
    kind: str, shape: tuple[int, int, int, int], *, generator: torch.Generator
) -> Tensor:
    """Pink or white noise (N, C, H, W), mean 1/2, standard deviation 1/4, clamped to [0, 1]."""
    is_pink = kind == "pink"
    noise = _pink_noise(shape, generator) if is_pink else torch.randn(shape, generator=generator)
    return (noise * 0.25 + 0.5).clamp_(0, 1)


def _pink_noise(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """Noise with amplitude 1/f and correlated channels, as in photographs (Field 1987)."""
    height, width = shape[2:]
    common = torch.randn(shape[0], 1, height, width, generator=generator)
    own = torch.randn(shape, generator=generator)
    noise = (1 - _OWN_FRACTION) ** 0.5 * common + _OWN_FRACTION**0.5 * own
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency = torch.hypot(rows[:, None], columns[None, :])
    frequency[0, 0] = 1 / max(height, width)
    pink: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(height, width))
    return pink.div_(pink.std())
