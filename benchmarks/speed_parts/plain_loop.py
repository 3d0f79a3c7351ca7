"""Model inversion as in public code: hooks, plain operations, one batch after another."""

from __future__ import annotations

import copy
import math
import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import ModelSpec, SynthesisSettings

__all__ = ["StatisticsHook", "invert_plainly", "observed_copy"]


class StatisticsHook:
    """Keeps what a BatchNorm layer was given."""

    def __init__(self, module: nn.BatchNorm2d) -> None:
        self.module = module
        self.inputs: Tensor
        module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.inputs = inputs[0]

    def distance(self) -> Tensor:
        """L2 distances of the batch's mean and variance from the stored ones, added."""
        channels = self.inputs.shape[1]
        mean = self.inputs.mean([0, 2, 3])
        rows = self.inputs.permute(1, 0, 2, 3).contiguous().view(channels, -1)
        var = rows.var(1, unbiased=False)
        return torch.norm(self.module.running_mean - mean) + torch.norm(
            self.module.running_var - var
        )


def observed_copy(model: nn.Module) -> tuple[nn.Module, list[StatisticsHook]]:
    """A copy in eval mode with hooks; its weights keep their gradients, as in public loops."""
    copied = copy.deepcopy(model).eval().requires_grad_(True)
    hooks = [StatisticsHook(m) for m in copied.modules() if isinstance(m, nn.BatchNorm2d)]
    return copied, hooks


def invert_plainly(
    model: nn.Module, spec: ModelSpec, settings: SynthesisSettings, *, seed: int
) -> tuple[Tensor, list[float]]:
    """The job of ``synthesize(Zoo([teacher]), settings)`` without data mixing, in plain operations.

    Returns:
        Images (N, C, H, W) in [0, 1], and the loss of the last step of every batch.
    """
    assert not settings.mixing_fraction
    torch.manual_seed(seed)
    random.seed(seed)
    observed, hooks = observed_copy(model)
    labels = torch.arange(settings.num_images) % spec.num_classes
    results = [
        _invert_batch(observed, hooks, spec, settings, batch)
        for batch in labels.split(settings.batch_size)
    ]
    return torch.cat([images for images, _ in results]), [loss for _, loss in results]


def _invert_batch(
    model: nn.Module,
    hooks: list[StatisticsHook],
    spec: ModelSpec,
    settings: SynthesisSettings,
    labels: Tensor,
) -> tuple[Tensor, float]:
    mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
    std = torch.tensor(spec.std).view(1, -1, 1, 1)
    images = (torch.randn(len(labels), *spec.input_shape) * 0.25 + 0.5).clamp_(0, 1)
    images.requires_grad_(True)
    optimizer = torch.optim.Adam([images], lr=settings.learning_rate, betas=(0.5, 0.9))
    loss = torch.zeros(())
    terms = {term.kind: term for term in settings.terms}
    for iteration in range(settings.iterations):
        progress = iteration / settings.iterations
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.zero_grad()
        model.zero_grad()
        logits = model((_augmented(images, settings) - mean) / std)
        distances = [hook.distance() for hook in hooks]
        distances[0] = distances[0] * terms["bn"].first_multiplier
        loss = terms["bn"].weight * sum(distances)
        loss = loss + terms["ce"].weight * F.cross_entropy(logits, labels)
        loss = loss + terms["tv"].weight * _total_variation(images)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return images.detach(), loss.item()


def _augmented(images: Tensor, settings: SynthesisSettings) -> Tensor:
    shifts = [random.randint(-settings.jitter, settings.jitter) for _ in range(2)]
    images = torch.roll(images, shifts, dims=(2, 3))
    return torch.flip(images, dims=(3,)) if settings.flip and random.random() < 0.5 else images


def _total_variation(images: Tensor) -> Tensor:
    across = images[:, :, :, 1:] - images[:, :, :, :-1]
    down = images[:, :, 1:, :] - images[:, :, :-1, :]
    return across.abs().mean() + down.abs().mean()
