"""Base classes of the terms of the synthesis loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mixmix._settings import Settings, subclasses
from mixmix.errors import InputError
from mixmix.models.zoo import Zoo
from mixmix.synthesis.terms.observation import BatchObservation, MemberObservation

__all__ = ["MemberTerm", "PriorTerm", "Term"]


@dataclass(frozen=True)
class Term(Settings, ABC):
    """A term of the loss that images are optimized for.

    A custom term is a frozen dataclass with its own ``kind``; its fields are its settings. To read
    settings back, import its module first, or register it as an entry point of the group
    ``mixmix.terms``::

        @dataclass(frozen=True)
        class Contrast(Term):
            kind: ClassVar[str] = "contrast"
            target: float = 0.25

            def __call__(self, batch: BatchObservation) -> Tensor:
                return (batch.images.std() - self.target).square()


        settings = recipe("mixmix").with_term(Contrast(weight=2.0))

    Attributes:
        kind: name of the term in settings, manifests and curves.
        order: position in the sum, which affects the last bits of results.
        weight: factor of the term, >= 0; 0 disables it.
    """

    family: ClassVar[str] = "term"
    group: ClassVar[str] = "mixmix.terms"
    order: ClassVar[int] = 100

    weight: float = 1.0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        kind = cls.kind
        for other in subclasses(Term):  # type: ignore[type-abstract]
            is_ours = other.__module__.startswith("mixmix.")
            if kind and other is not cls and other.kind == kind and is_ours:
                cls.kind = ""  # the class still exists, and must not be found
                raise InputError(
                    f"{cls.__qualname__} has the kind {kind!r} of "
                    f"{other.__module__}.{other.__qualname__}; choose another kind"
                )

    def __post_init__(self) -> None:
        if not self.kind:
            raise InputError(
                f'{type(self).__name__} has no kind; name one: kind: ClassVar[str] = "..."'
            )
        self._require_range("weight", low=0)

    def _field_label(self, name: str) -> str:
        return f"{type(self).__name__}.{name}"

    def applies_to(self, zoo: Zoo) -> bool:
        """Whether the term alone can invert this zoo; False for priors."""
        return True

    @abstractmethod
    def __call__(self, batch: BatchObservation) -> Tensor | None:
        """The unweighted loss: a scalar, or None where the term does not apply.

        Must be differentiable with respect to the images, thread-safe and deterministic.
        """

    def weighted(self, batch: BatchObservation) -> Tensor | None:
        loss = self(batch)
        return None if loss is None else self.weight * loss


class PriorTerm(Term):
    """A term that uses no network."""

    def applies_to(self, zoo: Zoo) -> bool:
        return False


class MemberTerm(Term):
    """A term that is computed per network; the loss is the mean over the networks drawn."""

    @abstractmethod
    def of_member(self, seen: MemberObservation, batch: BatchObservation) -> Tensor | None:
        """The loss of one network: a scalar, or None where the term does not apply to it."""

    def _total(self, batch: BatchObservation) -> Tensor | None:
        found = ((seen.weight, self.of_member(seen, batch)) for seen in batch.members)
        losses = [weight * loss for weight, loss in found if loss is not None]
        return torch.stack(losses).sum() if losses else None

    def __call__(self, batch: BatchObservation) -> Tensor | None:
        """Networks without the term count as 0."""
        total = self._total(batch)
        return None if total is None else total / len(batch.members)

    def weighted(self, batch: BatchObservation) -> Tensor | None:
        total = self._total(batch)
        # Weighting the mean instead would change the last bits.
        return None if total is None else self.weight * total / len(batch.members)
