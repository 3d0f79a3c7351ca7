"""Images and labels to start from."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["balanced_labels", "initial_images"]

# Of the variance of pink noise, what each channel has for itself.
_OWN_SHARE = 0.25


def balanced_labels(num_images: int, num_classes: int) -> Tensor:
    """Labels (N,) that go round the classes, so that every prefix is balanced; zeros if K = 0.

    Fewer images than classes are spread evenly over these: neighbors are often of one kind.
    """
    order = torch.arange(num_images)
    if num_images < num_classes:
        return order * num_classes // num_images
    return order % max(num_classes, 1)


def initial_images(
    kind: str, shape: tuple[int, int, int, int], *, generator: torch.Generator
) -> Tensor:
    """Images (N, C, H, W) to start from: noise around mid-gray, a quarter wide, cut to [0, 1].

    Args:
        kind: ``pink`` or ``white``, see ``SynthesisSettings.initial``.
        shape: (N, C, H, W).
        generator: a CPU generator.
    """
    noise = {"pink": _pink_noise, "white": _white_noise}[kind](shape, generator)
    return (noise * 0.25 + 0.5).clamp_(0, 1)


def _white_noise(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _pink_noise(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """Noise whose amplitude falls with frequency, and whose channels have most in common.

    Photographs are so (Field 1987: equal energy in every octave), so that the optimizer need not
    first get rid of what they are not.
    """
    height, width = shape[2:]
    common = torch.randn(shape[0], 1, height, width, generator=generator)
    own = torch.randn(shape, generator=generator)
    noise = (1 - _OWN_SHARE) ** 0.5 * common + _OWN_SHARE**0.5 * own
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency = torch.hypot(rows[:, None], columns[None, :])
    frequency[0, 0] = 1 / max(height, width)
    pink: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(height, width))
    return pink.div_(pink.std())
