"""The loss of one step: views of the images, the networks drawn, and the terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mixmix.data.mixing import draw_boxes, mix_images
from mixmix.data.views import jitter_and_flip
from mixmix.errors import InputError
from mixmix.models.member import Member
from mixmix.models.zoo import Zoo
from mixmix.synthesis.observing import observe_member
from mixmix.synthesis.settings import ObjectiveSettings
from mixmix.synthesis.terms.observation import BatchObservation
from mixmix.synthesis.terms.term import Term

__all__ = [
    "check_terms",
    "losses_of",
    "finite_values",
    "is_mixed",
    "total_loss",
]


def check_terms(zoo: Zoo, settings: ObjectiveSettings) -> None:
    """Raise an ``InputError`` if no term applies to the networks."""
    if any(term.applies_to(zoo) for term in settings.active_terms):
        return
    kinds = ", ".join(term.kind for term in settings.active_terms) or "none"
    raise InputError(
        f"nothing to invert: no term ({kinds}) applies to {', '.join(zoo.names)}; add a network "
        "with BatchNorm (for bn) or a label head (for ce), or another term"
    )


def is_mixed(iteration: int, fraction: float) -> bool:
    """Whether images are mixed at an iteration, if they are at a fraction of all iterations."""
    return math.floor((iteration + 1) * fraction) > math.floor(iteration * fraction)


def losses_of(
    zoo: Zoo,
    images: Tensor,
    labels: Tensor,
    settings: ObjectiveSettings,
    *,
    generator: torch.Generator,
    mixing: bool,
    scale: float = 1.0,
    chunk_size: int | None = None,
) -> dict[str, Tensor]:
    """Every weighted term of the loss, by kind, differentiable with respect to the images.

    Args:
        zoo: the networks, of which ``settings.members_per_step`` are drawn.
        images: (N, C, H, W) in [0, 1].
        labels: (N,) classes, on the device of the images.
        generator: CPU generator, the only source of randomness.
        scale: fraction of their own resolution at which the networks run.
        chunk_size: images per forward pass; None: all.

    Raises:
        InputError: if a term returns anything but a scalar or None.
    """
    settings = settings if zoo.may_flip else replace(settings, flip=False)
    views, partner_labels, box_fraction = _draw_views(
        images, labels, settings, generator=generator, mixing=mixing
    )
    members, weights = _draw_members(zoo, settings.members_per_step, generator)
    observations = tuple(
        observe_member(
            member,
            views,
            weight=weight,
            chunk_size=chunk_size,
            precision=settings.precision,
            scale=scale,
        )
        for member, weight in zip(members, weights, strict=True)
    )
    batch = BatchObservation(zoo, images, views, labels, partner_labels, box_fraction, observations)
    losses = {term.kind: _checked(term, term.weighted(batch)) for term in settings.active_terms}
    return {kind: loss for kind, loss in losses.items() if loss is not None}


def total_loss(losses: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """The sum; it depends on the images even if no term applies to the networks drawn."""
    return sum(losses.values(), start=images.sum() * 0)


def finite_values(losses: Mapping[str, Tensor], *, at: str, lower: str) -> dict[str, float]:
    """The losses as numbers.

    Raises:
        InputError: if one is not finite, naming the time (``at``) and the setting to ``lower``.
    """
    values = {kind: loss.item() for kind, loss in losses.items()}
    if not all(math.isfinite(value) for value in values.values()):
        raise InputError(
            f"the loss is not finite {at} ({values}); lower {lower}, or check the normalization of "
            "the networks"
        )
    return values


def _draw_views(
    images: Tensor,
    labels: Tensor,
    settings: ObjectiveSettings,
    *,
    generator: torch.Generator,
    mixing: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Views (N, C, H, W), classes in their boxes (N,), and the fraction that these cover (N,)."""
    views = jitter_and_flip(images, jitter=settings.jitter, flip=settings.flip, generator=generator)
    if not mixing:
        return views, labels, torch.zeros(len(labels), device=images.device)
    size = (images.shape[2], images.shape[3])
    partner = torch.randperm(len(labels), generator=generator).to(images.device)
    boxes = draw_boxes(len(labels), size, settings.box_area, generator=generator)
    views = mix_images(views, views[partner], boxes)
    return views, labels[partner], boxes.fraction(size).to(images.device)


def _draw_members(
    zoo: Zoo, count: int | None, generator: torch.Generator
) -> tuple[tuple[Member, ...], tuple[float, ...]]:
    """The members of a step and the weights of their losses.

    Drawing uses the weights of the zoo as probabilities; the losses then count equally. (Scaling
    the losses instead would have no effect: Adam normalizes gradients.)
    """
    weights = torch.tensor([member.weight for member in zoo.members], dtype=torch.float64)
    if count is None or count >= len(zoo):
        return zoo.members, tuple((weights / weights.mean()).tolist())
    if bool((weights == weights[0]).all()):
        chosen = torch.randperm(len(zoo), generator=generator)[:count]
    else:
        chosen = torch.multinomial(weights, count, generator=generator)
    return tuple(zoo.members[int(index)] for index in chosen), (1.0,) * count


def _checked(term: Term, loss: Tensor | None) -> Tensor | None:
    if loss is None or (isinstance(loss, Tensor) and loss.ndim == 0):
        return loss
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise InputError(
        f"the term {term.kind!r} returned {got}, expected a scalar tensor or None; take the mean "
        "over the batch"
    )
