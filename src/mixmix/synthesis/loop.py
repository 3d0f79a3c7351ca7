"""The optimisation of one batch of images: the heart of synthesis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mixmix.errors import InputError
from mixmix.synthesis.augment import jitter_and_flip
from mixmix.synthesis.initial import initial_images
from mixmix.synthesis.mixing import draw_boxes, mix_images
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.terms import (
    bn_statistics_loss,
    l2_loss,
    mixed_cross_entropy_loss,
    total_variation_loss,
)
from mixmix.zoo.teacher import Teacher
from mixmix.zoo.zoo import Zoo

__all__ = ["OptimisedBatch", "optimise_batch"]

# Losses are kept for about this many iterations, which is enough to draw their curve.
_TRACE_POINTS = 50


@dataclass(frozen=True)
class OptimisedBatch:
    """Images (N, C, H, W) in [0, 1], and the losses at some iterations, each a row of the trace."""

    images: Tensor
    trace: list[dict[str, float]]


def optimise_batch(
    zoo: Zoo,
    labels: Tensor,
    settings: SynthesisSettings,
    *,
    generator: torch.Generator,
    start: Tensor | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> OptimisedBatch:
    """Invert the zoo: optimise images until its networks see their statistics and the labels.

    Args:
        zoo: m networks; ``settings.members_per_step`` of them are drawn at each step.
        labels: (N,) classes of the images.
        settings: weights of the terms, iterations, mixing.
        generator: a CPU generator, the only source of randomness.
        start: (N, C, H, W) in [0, 1], images to begin with; None begins with noise.
        on_step: called after every iteration.

    Raises:
        InputError: if no term of the loss applies to the zoo, or the loss stops being finite.
    """
    _check_terms(zoo, settings)
    shape = (len(labels), *zoo.input_shape)
    if start is None:
        start = initial_images(settings.initial, shape, generator=generator)
    images = start.to(zoo.device, copy=True)
    if zoo.input_shape[0] > 1:
        images = images.contiguous(memory_format=torch.channels_last)
    images.requires_grad_(True)
    labels = labels.to(zoo.device)
    optimizer = torch.optim.Adam([images], lr=settings.learning_rate, betas=(0.5, 0.9))
    trace: list[dict[str, float]] = []
    stride = max(1, settings.iterations // _TRACE_POINTS)
    for iteration in range(settings.iterations):
        progress = iteration / settings.iterations
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        mixing = _mixes(iteration, settings.mixing_share)
        losses = _losses(zoo, images, labels, settings, generator, mixing=mixing)
        # Rooted in the images, because the members drawn may have no term of their own.
        total = sum(losses.values(), start=images.sum() * 0)
        if iteration % stride == 0 or iteration == settings.iterations - 1:
            values = {name: loss.item() for name, loss in losses.items()}
            if not all(math.isfinite(value) for value in values.values()):
                raise InputError(
                    f"the loss is no longer finite at iteration {iteration} ({values}); lower "
                    "learning_rate, or check the networks' normalisation"
                )
            trace.append({"iteration": iteration} | values)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
        on_step()
    return OptimisedBatch(images.detach().contiguous(), trace)


def _check_terms(zoo: Zoo, settings: SynthesisSettings) -> None:
    if settings.iterations == 0:
        return
    matches = settings.bn_weight and any(teacher.batch_norms for teacher in zoo)
    if not matches and not (settings.ce_weight and zoo.num_classes):
        raise InputError(
            f"nothing to invert: {', '.join(zoo.names)} with bn_weight {settings.bn_weight} and "
            f"ce_weight {settings.ce_weight} have neither BatchNorm statistics nor labels to "
            "match; add a network that has, or raise the other weight"
        )


def _mixes(iteration: int, share: float) -> bool:
    """Whether images are mixed at an iteration, where a share of the iterations mixes them."""
    return math.floor((iteration + 1) * share) > math.floor(iteration * share)


def _losses(
    zoo: Zoo,
    images: Tensor,
    labels: Tensor,
    settings: SynthesisSettings,
    generator: torch.Generator,
    *,
    mixing: bool,
) -> dict[str, Tensor]:
    """Every weighted term of the loss, by name."""
    views = jitter_and_flip(images, jitter=settings.jitter, flip=settings.flip, generator=generator)
    other, share = labels, torch.zeros(len(labels), device=images.device)
    if mixing:
        size = (images.shape[2], images.shape[3])
        partner = torch.randperm(len(labels), generator=generator).to(images.device)
        boxes = draw_boxes(len(labels), size, settings.box_area, generator=generator)
        views = mix_images(views, views[partner], boxes)
        other, share = labels[partner], boxes.share(size).to(images.device)
    members = _draw_members(zoo, settings.members_per_step, generator)
    bn_losses, ce_losses = [], []
    for teacher in members:
        observation = teacher.observe(views, precision=settings.precision)
        if observation.statistics:
            loss = bn_statistics_loss(
                observation.statistics, first_multiplier=settings.first_bn_multiplier
            )
            weight = _depth_weight(zoo, teacher) if settings.balance_members else 1.0
            bn_losses.append(weight * loss)
        if teacher.has_label_head and settings.ce_weight:
            ce_losses.append(mixed_cross_entropy_loss(observation.logits, labels, other, share))
    losses: dict[str, Tensor] = {}
    if bn_losses and settings.bn_weight:
        losses["bn"] = settings.bn_weight * torch.stack(bn_losses).sum() / len(members)
    if ce_losses:
        losses["ce"] = settings.ce_weight * torch.stack(ce_losses).sum() / len(members)
    if settings.tv_weight:
        losses["tv"] = settings.tv_weight * total_variation_loss(images)
    if settings.l2_weight:
        losses["l2"] = settings.l2_weight * l2_loss(images)
    return losses


def _depth_weight(zoo: Zoo, teacher: Teacher) -> float:
    """Mean number of BatchNorm layers of the networks that have any, over this network's own.

    The term is a sum over layers. Adam makes steps of one size out of the gradients that it has
    seen of late, so that next to a deep network a shallow one would move the images little.
    """
    depths = [len(member.batch_norms) for member in zoo if member.batch_norms]
    return sum(depths) / len(depths) / len(teacher.batch_norms)


def _draw_members(zoo: Zoo, count: int | None, generator: torch.Generator) -> tuple[Teacher, ...]:
    if count is None or count >= len(zoo):
        return tuple(zoo)
    order = torch.randperm(len(zoo), generator=generator)
    return tuple(zoo[int(index)] for index in order[:count])
