"""What is drawn at a step: shifted and mixed views of the images, and who sees them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mixmix.data.mixing import draw_boxes, mix_images
from mixmix.data.shifts import jitter_and_flip
from mixmix.models.member import Member
from mixmix.models.zoo import Zoo
from mixmix.synthesis.settings import SynthesisSettings

__all__ = ["Views", "draw_members", "draw_views", "is_mixed"]


class Views(NamedTuple):
    """Views (N, C, H, W), classes in their boxes (N,), and the fraction that these cover (N,)."""

    images: Tensor
    partner_labels: Tensor
    box_fraction: Tensor


def is_mixed(iteration: int, share: float) -> bool:
    """Whether images are mixed at an iteration, where a share of the iterations mixes them."""
    return math.floor((iteration + 1) * share) > math.floor(iteration * share)


def draw_views(
    images: Tensor,
    labels: Tensor,
    settings: SynthesisSettings,
    *,
    generator: torch.Generator,
    mixing: bool,
) -> Views:
    """Views of images (N, C, H, W) with labels (N,), mixed if so asked."""
    views = jitter_and_flip(images, jitter=settings.jitter, flip=settings.flip, generator=generator)
    if not mixing:
        return Views(views, labels, torch.zeros(len(labels), device=images.device))
    size = (images.shape[2], images.shape[3])
    partner = torch.randperm(len(labels), generator=generator).to(images.device)
    boxes = draw_boxes(len(labels), size, settings.box_area, generator=generator)
    views = mix_images(views, views[partner], boxes)
    return Views(views, labels[partner], boxes.share(size).to(images.device))


def draw_members(
    zoo: Zoo, count: int | None, generator: torch.Generator
) -> tuple[tuple[Member, ...], tuple[float, ...]]:
    """Members of a step and what their losses count; drawn by their weights, they count the same.

    What is drawn more often moves the images more; scaling its losses would have no effect, as Adam
    normalizes gradients.
    """
    weights = torch.tensor([member.weight for member in zoo.members], dtype=torch.float64)
    if count is None or count >= len(zoo):
        return zoo.members, tuple((weights / weights.mean()).tolist())
    if bool((weights == weights[0]).all()):
        chosen = torch.randperm(len(zoo), generator=generator)[:count]
    else:
        chosen = torch.multinomial(weights, count, generator=generator)
    return tuple(zoo.members[int(index)] for index in chosen), (1.0,) * count
