"""Optimization of the pixels of one batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mixmix.models.model import resize
from mixmix.models.zoo import Zoo
from mixmix.runtime.memory_layout import in_faster_layout
from mixmix.runtime.rates import cosine_decay
from mixmix.synthesis.initial import initial_images
from mixmix.synthesis.objective import (
    check_terms,
    finite_values,
    is_mixed,
    losses_of,
    total_loss,
)
from mixmix.synthesis.settings import SynthesisSettings

__all__ = ["optimize_batch", "stage_at"]

# Approximate number of recorded iterations.
_TRACE_POINTS = 50


def optimize_batch(
    zoo: Zoo,
    labels: Tensor,
    settings: SynthesisSettings,
    *,
    generator: torch.Generator,
    start: Tensor | None = None,
    chunk_size: int | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> tuple[Tensor, list[dict[str, float]]]:
    """Invert the zoo: optimize images to match its BatchNorm statistics and the labels.

    Args:
        zoo: the networks, of which ``settings.members_per_step`` are drawn at each step.
        labels: (N,) classes of the images.
        settings: of the loss and its optimization.
        generator: CPU generator, the only source of randomness.
        start: initial images (N, C, H, W) in [0, 1]; None: noise.
        chunk_size: images per forward pass; None: all.
        on_step: called after every iteration.

    Returns:
        Images (N, C, H, W) in [0, 1], and the losses of some iterations by name.

    Raises:
        InputError: if no term of the loss applies to the zoo, or the loss becomes infinite or NaN.
    """
    if settings.iterations:
        check_terms(zoo, settings)
    if start is None:
        shape = (len(labels), zoo.input_shape[0], *_size(zoo, settings.scales[0]))
        start = initial_images(settings.initial, shape, generator=generator)
    labels = labels.to(zoo.device)
    pixels = _Pixels(start, zoo, settings)
    trace: list[dict[str, float]] = []
    stride = max(1, settings.iterations // _TRACE_POINTS)
    for iteration in range(settings.iterations):
        pixels.prepare(iteration)
        losses = losses_of(
            zoo,
            pixels.images,
            labels,
            settings,
            generator=generator,
            mixing=is_mixed(iteration, settings.mixing_fraction),
            scale=pixels.scale,
            chunk_size=chunk_size,
        )
        total = total_loss(losses, pixels.images)
        if iteration % stride == 0 or iteration == settings.iterations - 1:
            values = finite_values(losses, at=f"at iteration {iteration}", lower="learning_rate")
            trace.append({"iteration": iteration} | values)
        pixels.step(total)
        on_step()
    return resize(pixels.images.detach(), _size(zoo, 1.0)).contiguous(), trace


def stage_at(iteration: int, iterations: int, num_stages: int) -> int:
    """Index of the stage of an iteration in [0, iterations), for stages of equal length."""
    return iteration * num_stages // iterations


class _Pixels:
    """Images (N, C, H, W) in [0, 1] with their optimizer, at one scale after the other."""

    def __init__(self, start: Tensor, zoo: Zoo, settings: SynthesisSettings) -> None:
        self._zoo, self._settings, self._stage = zoo, settings, 0
        self._begin(start)

    @property
    def scale(self) -> float:
        return self._settings.scales[self._stage]

    def prepare(self, iteration: int) -> None:
        """Set the size and learning rate of an iteration."""
        settings = self._settings
        if stage_at(iteration, settings.iterations, len(settings.scales)) > self._stage:
            self._stage += 1
            self._begin(self.images)
        rate = settings.learning_rate * cosine_decay(iteration / settings.iterations)
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def step(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        with torch.no_grad():
            self.images.clamp_(0, 1)

    def _begin(self, start: Tensor) -> None:
        size, device = _size(self._zoo, self.scale), self._zoo.device
        images = resize(start.detach(), size).to(device, copy=True)
        self.images = in_faster_layout(images).requires_grad_(True)
        rate = self._settings.learning_rate
        self._optimizer = torch.optim.Adam([self.images], lr=rate, betas=(0.5, 0.9))


def _size(zoo: Zoo, scale: float) -> tuple[int, int]:
    height, width = zoo.input_shape[1:]
    return max(1, round(scale * height)), max(1, round(scale * width))
