"""The protocol of a term of the synthesis loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mixmix._settings import Settings, subclasses
from mixmix.errors import InputError
from mixmix.models.zoo import Zoo
from mixmix.synthesis.terms.observation import BatchObservation, MemberObservation

__all__ = ["MemberTerm", "Term"]


@dataclass(frozen=True)
class Term(Settings, ABC):
    """A term of the loss that images are optimized for.

    A term of your own is a frozen dataclass with a ``kind`` of its own, whose fields are its
    settings. Its module has to be imported before settings are read back, or its package names it
    in an entry point of the group ``mixmix.term``::

        @dataclass(frozen=True)
        class Contrast(Term):
            kind: ClassVar[str] = "contrast"
            target: float = 0.25

            def __call__(self, batch: BatchObservation) -> Tensor:
                return (batch.images.std() - self.target).square()


        settings = recipe("mixmix").with_term(Contrast(weight=2.0))

    Attributes:
        kind: names the term in settings, manifests and curves.
        order: where it stands in the sum; results depend on it in their last bits.
        needs_tokens: whether networks are to be asked for tokens; see ``of_tokens``.
        needs_student: whether a network under training is to be handed in, where there is one.
        weight: factor of the term, >= 0; at 0 it is left out.
    """

    family: ClassVar[str] = "term"
    order: ClassVar[int] = 100
    needs_tokens: ClassVar[bool] = False
    needs_student: ClassVar[bool] = False

    weight: float = 1.0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        kind = cls.kind
        for other in subclasses(Term):  # type: ignore[type-abstract]
            is_ours = other.__module__.startswith("mixmix.")
            if kind and other is not cls and other.kind == kind and is_ours:
                cls.kind = ""  # so that it is not found under this kind, while it exists
                raise InputError(
                    f"{cls.__qualname__} has the kind {kind!r}, which is that of "
                    f"{other.__module__}.{other.__qualname__}; give it a kind of its own"
                )

    def __post_init__(self) -> None:
        if not self.kind:
            raise InputError(
                f'{type(self).__name__} has no kind; name one: kind: ClassVar[str] = "..."'
            )
        self._require_finite("weight")

    def _require_finite(self, name: str) -> None:
        value = getattr(self, name)
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise InputError(
                f"{type(self).__name__}.{name} must be a finite number >= 0, got {value!r}"
            )

    def applies_to(self, zoo: Zoo) -> bool:
        """Whether networks of this zoo have what the term matches; a prior asks none of them."""
        return True

    def of_tokens(self, tokens: Sequence[Tensor]) -> Tensor:
        """What a term with ``needs_tokens`` takes of the tokens of some images.

        It is asked for a few images at a time where memory is short, so that tokens need not be
        kept, and stands in ``MemberObservation.of_tokens`` under the term's kind.

        Args:
            tokens: input of each LayerNorm layer (N, positions, features); not empty.

        Returns:
            (N, ...), a row for each image.
        """
        raise NotImplementedError(f"{type(self).__name__} needs tokens, but has no of_tokens")

    @abstractmethod
    def __call__(self, batch: BatchObservation) -> Tensor | None:
        """The loss before it is weighed: a scalar, or None where the term does not apply.

        Must be differentiable by the images, safe to call from several threads, and without
        randomness of its own, so that the same seed gives the same bits.
        """

    def weighted(self, batch: BatchObservation) -> Tensor | None:
        """``weight`` times the loss."""
        loss = self(batch)
        return None if loss is None else self.weight * loss


class MemberTerm(Term):
    """A term that asks each network for itself; the loss is the mean over all that are drawn."""

    @abstractmethod
    def of_member(self, seen: MemberObservation, batch: BatchObservation) -> Tensor | None:
        """The loss of one network: a scalar, or None where the term does not apply to it."""

    def _total(self, batch: BatchObservation) -> Tensor | None:
        found = ((seen.weight, self.of_member(seen, batch)) for seen in batch.members)
        losses = [weight * loss for weight, loss in found if loss is not None]
        return torch.stack(losses).sum() if losses else None

    def __call__(self, batch: BatchObservation) -> Tensor | None:
        """The mean; networks without the term count as 0."""
        total = self._total(batch)
        return None if total is None else total / len(batch.members)

    def weighted(self, batch: BatchObservation) -> Tensor | None:
        """``weight`` times the mean."""
        total = self._total(batch)
        # In this order: to weigh the mean gives other last bits.
        return None if total is None else self.weight * total / len(batch.members)
