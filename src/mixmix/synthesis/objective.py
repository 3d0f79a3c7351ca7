"""What images are optimized for: the terms of the loss, whatever the images are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mixmix.errors import InputError
from mixmix.models.zoo import Zoo
from mixmix.synthesis.drawing import draw_members, draw_views
from mixmix.synthesis.observing import observe_member
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.terms.observation import BatchObservation, Student
from mixmix.synthesis.terms.term import Term

__all__ = ["check_terms", "finite_values", "losses_of", "total_loss"]


def check_terms(zoo: Zoo, settings: SynthesisSettings) -> None:
    """Refuse settings of which no term applies to the networks."""
    if settings.iterations == 0 or any(t.applies_to(zoo) for t in settings.weighed_terms):
        return
    kinds = ", ".join(term.kind for term in settings.weighed_terms) or "none"
    raise InputError(
        f"nothing to invert: of the terms ({kinds}) none applies to {', '.join(zoo.names)}; add a "
        "network with what they match (bn: BatchNorm, ce: a label head), or another term"
    )


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
    """Every weighted term of the loss, by kind, differentiable by the images.

    Args:
        zoo: m networks; ``settings.members_per_step`` of them are drawn.
        images: (N, C, H, W) in [0, 1].
        labels: (N,) their classes, on the device of the images.
        settings: the terms, and how images are shown to the networks.
        generator: a CPU generator, the only source of randomness.
        mixing: whether images are mixed.
        student: a network under training for terms that ask for one, or None.
        scale: share of their own resolution at which the networks run.
        part: images that pass a network at a time; None: all.

    Raises:
        InputError: if a term gives anything but a scalar or None.
    """
    terms = settings.weighed_terms
    views = draw_views(images, labels, settings, generator=generator, mixing=mixing)
    members, weights = draw_members(zoo, settings.members_per_step, generator)
    observations = tuple(
        observe_member(
            member,
            views.images,
            terms,
            weight=weight,
            part=part,
            precision=settings.precision,
            scale=scale,
        )
        for member, weight in zip(members, weights, strict=True)
    )
    batch = BatchObservation(
        zoo,
        images,
        views.images,
        labels,
        views.partner_labels,
        views.box_fraction,
        observations,
        student,
    )
    found = {term.kind: _checked(term, term.weighted(batch)) for term in terms}
    return {kind: loss for kind, loss in found.items() if loss is not None}


def total_loss(losses: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """The sum, rooted in the images, because the networks drawn may have no term of their own."""
    return sum(losses.values(), start=images.sum() * 0)


def finite_values(losses: Mapping[str, Tensor], *, at: str, lower: str) -> dict[str, float]:
    """The losses as numbers.

    Raises:
        InputError: if one is not finite, naming when (``at``) and which setting to ``lower``.
    """
    values = {kind: loss.item() for kind, loss in losses.items()}
    if not all(math.isfinite(value) for value in values.values()):
        raise InputError(
            f"the loss is no longer finite {at} ({values}); lower {lower}, or check the networks' "
            "normalization"
        )
    return values


def _checked(term: Term, loss: Tensor | None) -> Tensor | None:
    if loss is None or (isinstance(loss, Tensor) and loss.ndim == 0):
        return loss
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise InputError(
        f"the term {term.kind!r} gave {got}, expected a scalar tensor or None; take a mean over "
        "the batch"
    )
