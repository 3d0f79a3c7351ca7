"""The optimization of one batch of images: the heart of synthesis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mixmix.errors import InputError
from mixmix.models.zoo import Zoo
from mixmix.runtime.memory_layout import in_faster_layout
from mixmix.synthesis.initial import initial_images
from mixmix.synthesis.losses import Student, check_terms, is_mixed, losses_of
from mixmix.synthesis.settings import SynthesisSettings

__all__ = ["OptimizedBatch", "optimize_batch"]

# Losses are kept for about this many iterations, which is enough to draw their curve.
_TRACE_POINTS = 50


@dataclass(frozen=True)
class OptimizedBatch:
    """Images (N, C, H, W) in [0, 1], and the losses at some iterations, each a row of the trace."""

    images: Tensor
    trace: list[dict[str, float]]


def optimize_batch(
    zoo: Zoo,
    labels: Tensor,
    settings: SynthesisSettings,
    *,
    generator: torch.Generator,
    start: Tensor | None = None,
    student: Student | None = None,
    part: int | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> OptimizedBatch:
    """Invert the zoo: optimize images until its networks see their statistics and the labels.

    Args:
        zoo: m networks; ``settings.members_per_step`` of them are drawn at each step.
        labels: (N,) classes of the images.
        settings: weights of the terms, iterations, mixing.
        generator: a CPU generator, the only source of randomness.
        start: (N, C, H, W) in [0, 1], images to begin with; None begins with noise.
        student: whose disagreement with the zoo ``settings.adversarial_weight`` asks for.
        part: images that pass a network at a time; None: all.
        on_step: called after every iteration.

    Raises:
        InputError: if no term of the loss applies to the zoo, or the loss stops being finite.
    """
    check_terms(zoo, settings)
    if start is None:
        shape = (len(labels), zoo.input_shape[0], *_size(zoo, settings.scales[0]))
        start = initial_images(settings.initial, shape, generator=generator)
    labels = labels.to(zoo.device)
    images, optimizer = _begin(start, zoo, settings, settings.scales[0])
    trace: list[dict[str, float]] = []
    stride = max(1, settings.iterations // _TRACE_POINTS)
    stage = 0
    for iteration in range(settings.iterations):
        if iteration * len(settings.scales) >= (stage + 1) * settings.iterations:
            stage += 1
            images, optimizer = _begin(images, zoo, settings, settings.scales[stage])
        progress = iteration / settings.iterations
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        mixing = is_mixed(iteration, settings.mixing_share)
        losses = losses_of(
            zoo,
            images,
            labels,
            settings,
            generator=generator,
            mixing=mixing,
            student=student,
            scale=settings.scales[stage],
            part=part,
        )
        # Rooted in the images, because the members drawn may have no term of their own.
        total = sum(losses.values(), start=images.sum() * 0)
        if iteration % stride == 0 or iteration == settings.iterations - 1:
            values = {name: loss.item() for name, loss in losses.items()}
            if not all(math.isfinite(value) for value in values.values()):
                raise InputError(
                    f"the loss is no longer finite at iteration {iteration} ({values}); lower "
                    "learning_rate, or check the networks' normalization"
                )
            trace.append({"iteration": iteration} | values)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
        on_step()
    return OptimizedBatch(_resized(images.detach(), _size(zoo, 1.0)).contiguous(), trace)


def _begin(
    start: Tensor, zoo: Zoo, settings: SynthesisSettings, scale: float
) -> tuple[Tensor, torch.optim.Adam]:
    """Images at a share of the full size to be optimized, and their optimizer."""
    images = _resized(start.detach(), _size(zoo, scale)).to(zoo.device, copy=True)
    images = in_faster_layout(images).requires_grad_(True)
    return images, torch.optim.Adam([images], lr=settings.learning_rate, betas=(0.5, 0.9))


def _size(zoo: Zoo, scale: float) -> tuple[int, int]:
    height, width = zoo.input_shape[1:]
    return max(1, round(scale * height)), max(1, round(scale * width))


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(
        images, size=list(size), mode="bilinear", align_corners=False, antialias=True
    )
