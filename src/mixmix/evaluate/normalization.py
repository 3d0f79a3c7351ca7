"""Whether the mean and standard deviation of a spec are those that a network was trained with."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from mixmix.models.model import Model, normalize
from mixmix.models.spec import ModelSpec
from mixmix.runtime.seeding import generator

__all__ = ["natural_images", "normalization_report"]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_NUM_IMAGES = 16
# Divergences, in nats per channel, of what fits and of what is far better than the spec's own.
_FITS, _FAR_BETTER = 0.3, 3.0


def natural_images(spec: ModelSpec, number: int = _NUM_IMAGES) -> Tensor:
    """Images (N, C, H, W) with the spectrum, mean and contrast of photographs, and no content.

    Amplitudes fall with the inverse of the frequency (D. J. Field 1987, Relations between the
    statistics of natural images and the response properties of cortical cells).
    """
    channels, height, width = spec.input_shape
    draws = generator(0, "natural images")
    y, x = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    amplitude = 1 / (x.square() + y.square()).sqrt().clamp_min(1 / max(height, width))
    amplitude[0, 0] = 0

    def fields(count: int) -> Tensor:
        noise = torch.randn(number, count, height, width, generator=draws)
        values: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) * amplitude, s=(height, width))
        scaled: Tensor = values / values.std((2, 3), keepdim=True).clamp_min(1e-9)
        return scaled

    # Channels of photographs are nearly the same.
    shared = 0.95 * fields(1) + 0.3 * fields(channels)
    brightness = 0.1 * torch.randn(number, 1, 1, 1, generator=draws)
    return (0.45 + brightness + 0.22 * shared).clamp(0, 1)


def normalization_report(model: Model) -> tuple[str, str]:
    """``ok``, ``doubtful`` or ``unknown``, and why, from the first BatchNorm's statistics.

    The inputs of the first BatchNorm for images like photographs are compared with the statistics
    that it saw in training, also for other usual values of mean and std.
    """
    if not model.batch_norms:
        return "unknown", "no BatchNorm whose statistics could tell"
    images = natural_images(model.spec)
    given = _divergence(model, images, model.spec.mean, model.spec.std)
    if given is None:
        return "unknown", "the first BatchNorm does not depend on the scale of the images"
    others: dict[str, float] = {}
    for name, (mean, std) in _candidates(model.spec).items():
        found = _divergence(model, images, mean, std)
        if found is not None:
            others[name] = found
    best = min(others, key=lambda name: others[name])
    if given > _FITS and others[best] < given / _FAR_BETTER:
        return (
            "doubtful",
            f"inputs of the first BatchNorm are far from its statistics ({given:.1f} nats per "
            f"channel), those of {best} are near ({others[best]:.1f}); check --mean and --std",
        )
    return "ok", f"inputs of the first BatchNorm are as in training ({given:.2f} nats per channel)"


def _candidates(spec: ModelSpec) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    channels = spec.input_shape[0]
    found = {
        "pixels in [0, 1] (mean 0, std 1)": ((0.0,) * channels, (1.0,) * channels),
        "pixels in [-1, 1] (mean 0.5, std 0.5)": ((0.5,) * channels, (0.5,) * channels),
        "pixels from 0 to 255 (mean 0, std 1/255)": ((0.0,) * channels, (1 / 255,) * channels),
    }
    if channels == 3:
        found["ImageNet's mean and std"] = _IMAGENET
    return found


@torch.no_grad()
def _divergence(
    model: Model, images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> float | None:
    """Mean over channels of the divergence of normal distributions at the first BatchNorm.

    KL(inputs, statistics) = (v / s + (m - r)^2 / s - 1 - log(v / s)) / 2.
    """
    seen: list[Tensor] = []

    class Enough(Exception):
        pass

    def stop(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise Enough

    first = model.batch_norms[0]
    assert isinstance(first, torch.nn.Module)
    handle = first.register_forward_pre_hook(stop)
    try:
        model.module(normalize(images.to(model.device), replace(model.spec, mean=mean, std=std)))
    except Enough:
        pass
    finally:
        handle.remove()
    running_mean, running_var = first.running_mean, first.running_var
    if not seen or seen[0].ndim != 4 or running_mean is None or running_var is None:
        return None
    values, least = seen[0].float(), 1e-8
    own, trained = values.var((0, 2, 3)).clamp_min(least), running_var.clamp_min(least)
    shift = (values.mean((0, 2, 3)) - running_mean).square() / trained
    alive = running_var > least
    divergence = (own / trained + shift - 1 - (own / trained).log())[alive] / 2
    # The median: single channels may see what such images do not have.
    found = float(divergence.median()) if divergence.numel() else math.nan
    return found if math.isfinite(found) else None
