"""What images are optimized for: the losses of a zoo, whatever the images are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mixmix.data.mixing import draw_boxes, mix_images
from mixmix.data.shifts import jitter_and_flip
from mixmix.errors import InputError
from mixmix.models.member import Member
from mixmix.models.zoo import Zoo
from mixmix.synthesis.parts import Seen, observe_in_parts
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.terms.terms import (
    agreement_loss,
    bn_statistics_loss,
    l2_loss,
    mixed_cross_entropy_loss,
    relative_bn_loss,
    total_variation_loss,
)

__all__ = ["Student", "check_terms", "is_mixed", "losses_of"]

# From images (N, C, H, W) in [0, 1] to logits (N, K), differentiable by the images.
Student = Callable[[Tensor], Tensor]


# Networks on CIFAR-10 have 4 to 15 and a MobileNetV2 on ImageNet has 2, for which the absolute
# distance is the better; EfficientNet-Lite has 400, and its images lose their labels by it.
_LARGEST_VARIANCE_NORM = 100.0
# What the relative distance counts at a weight of 1.
_OF_RELATIVE = 60.0


def check_terms(zoo: Zoo, settings: SynthesisSettings) -> None:
    """Refuse settings of which no term applies."""
    if settings.iterations == 0:
        return
    matches = settings.bn_weight and any(teacher.batch_norms for teacher in zoo)
    if not matches and not (settings.ce_weight and zoo.headed):
        raise InputError(
            f"nothing to invert: {', '.join(zoo.names)} with bn_weight {settings.bn_weight} and "
            f"ce_weight {settings.ce_weight} have neither BatchNorm statistics nor labels to "
            "match; add a network that has, or raise the other weight"
        )


def is_mixed(iteration: int, share: float) -> bool:
    """Whether images are mixed at an iteration, where a share of the iterations mixes them."""
    return math.floor((iteration + 1) * share) > math.floor(iteration * share)


def losses_of(
    zoo: Zoo,
    images: Tensor,
    labels: Tensor,
    settings: SynthesisSettings,
    *,
    generator: torch.Generator,
    mixing: bool,
    student: Student | None = None,
    scale: float = 1.0,
    part: int | None = None,
) -> dict[str, Tensor]:
    """Every weighted term of the loss, by name, differentiable by the images.

    Args:
        zoo: m networks; ``settings.members_per_step`` of them are drawn.
        images: (N, C, H, W) in [0, 1].
        labels: (N,) their classes, on the device of the images.
        settings: weights of the terms.
        generator: a CPU generator, the only source of randomness.
        mixing: whether images are mixed.
        student: whose disagreement with the drawn networks is asked for, or None.
        scale: share of their own resolution at which the networks run.
        part: images that pass a network at a time; None: all.
    """
    views = jitter_and_flip(images, jitter=settings.jitter, flip=settings.flip, generator=generator)
    other, share = labels, torch.zeros(len(labels), device=images.device)
    if mixing:
        size = (images.shape[2], images.shape[3])
        partner = torch.randperm(len(labels), generator=generator).to(images.device)
        boxes = draw_boxes(len(labels), size, settings.box_area, generator=generator)
        views = mix_images(views, views[partner], boxes)
        other, share = labels[partner], boxes.share(size).to(images.device)
    members, counts = _draw_members(zoo, settings.members_per_step, generator)
    bn_losses, ce_losses, entropies, logits = [], [], [], []
    for member, count in zip(members, counts, strict=True):
        seen = observe_in_parts(
            member.teacher,
            views,
            part=part,
            precision=settings.precision,
            scale=scale,
            patches=settings.patch_weight > 0,
        )
        if seen.statistics:
            bn_losses.append(count * _bn_loss(seen, zoo, member, settings))
        if seen.entropy is not None:
            entropies.append(count * seen.entropy.mean())
        if member.labels is not None:
            own = member.logits_of_zoo(seen.logits)
            logits.append(own)
            if settings.ce_weight:
                ce_losses.append(count * mixed_cross_entropy_loss(own, labels, other, share))
    losses: dict[str, Tensor] = {}
    if bn_losses and settings.bn_weight:
        losses["bn"] = settings.bn_weight * torch.stack(bn_losses).sum() / len(members)
    if ce_losses:
        losses["ce"] = settings.ce_weight * torch.stack(ce_losses).sum() / len(members)
    if entropies:
        losses["patch"] = -settings.patch_weight * torch.stack(entropies).sum() / len(members)
    if student is not None and settings.adversarial_weight and logits:
        wanted = torch.stack([each.softmax(1) for each in logits]).mean(0)
        agreement = agreement_loss(wanted, student(views).softmax(1))
        losses["adversarial"] = settings.adversarial_weight * agreement
    if settings.tv_weight:
        losses["tv"] = settings.tv_weight * total_variation_loss(images)
    if settings.l2_weight:
        losses["l2"] = settings.l2_weight * l2_loss(images)
    return losses


def _bn_loss(seen: Seen, zoo: Zoo, member: Member, settings: SynthesisSettings) -> Tensor:
    first, distance = settings.first_bn_multiplier, settings.bn_distance
    if distance == "auto":
        is_wide = member.teacher.variance_norm > _LARGEST_VARIANCE_NORM
        distance = "relative" if is_wide else "absolute"
    if distance == "relative":
        return _OF_RELATIVE * relative_bn_loss(seen.statistics, first_multiplier=first)
    weight = _depth_weight(zoo, member) if settings.balance_members else 1.0
    return weight * bn_statistics_loss(seen.statistics, first_multiplier=first)


def _depth_weight(zoo: Zoo, member: Member) -> float:
    """Mean number of BatchNorm layers of the networks that have any, over this network's own.

    The term is a sum over layers. Adam makes steps of one size out of the gradients that it has
    seen of late, so that next to a deep network a shallow one would move the images little.
    """
    depths = [len(teacher.batch_norms) for teacher in zoo if teacher.batch_norms]
    return sum(depths) / len(depths) / len(member.teacher.batch_norms)


def _draw_members(
    zoo: Zoo, count: int | None, generator: torch.Generator
) -> tuple[tuple[Member, ...], tuple[float, ...]]:
    """Members of a step and what their losses count; drawn by their weights, they count the same.

    What is drawn more often moves the images more; a factor would be lost in Adam, which makes
    steps of one size out of the gradients that it has seen.
    """
    weights = torch.tensor([member.weight for member in zoo.members], dtype=torch.float64)
    if count is None or count >= len(zoo):
        return zoo.members, tuple((weights / weights.mean()).tolist())
    if bool((weights == weights[0]).all()):
        chosen = torch.randperm(len(zoo), generator=generator)[:count]
    else:
        chosen = torch.multinomial(weights, count, generator=generator)
    return tuple(zoo.members[int(index)] for index in chosen), (1.0,) * count
