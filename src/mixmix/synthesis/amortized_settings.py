"""Settings of amortized synthesis."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mixmix._settings import Settings
from mixmix.errors import InputError
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.terms.bn import BatchNormDistance
from mixmix.synthesis.terms.similarity import Similarity
from mixmix.synthesis.terms.term import Term

__all__ = ["AmortizedSettings"]

_OBJECTIVE = (
    SynthesisSettings(iterations=10)
    .with_term(BatchNormDistance(weight=0.5, distance="relative"))
    .with_term(Similarity(weight=10.0))
)


@dataclass(frozen=True)
class AmortizedSettings(Settings):
    """How batches are drawn from a generator that they share.

    Attributes:
        objective: the terms of the loss, ``batch_size`` and mixing; its ``iterations`` are the
            steps of each batch, too few for statistics to weigh as much as with pixels.
            ``num_images``, ``initial``, ``learning_rate`` and ``scales`` are for pixels. Without
            the term ``Similarity``, images of a class come to look alike.
        batches_at_once: batches of a round, which begin from the same generator; on a CPU they are
            made side by side.
        num_latents: latents that are kept, and begun from; at least the images of a round.
        latent_size: numbers in each.
        width: channels of the generator's last stage.
        latent_rate: learning rate of Adam for latents.
        generator_rate: of Adam for the weights of a batch's generator.
        meta_rate: share of the way that the generator and its latents go to what a round made of
            them, in (0, 1].
    """

    objective: SynthesisSettings = _OBJECTIVE
    batches_at_once: int = 2
    num_latents: int = 1280
    latent_size: int = 128
    width: int = 16
    latent_rate: float = 5e-2
    generator_rate: float = 3e-3
    meta_rate: float = 0.5

    def __post_init__(self) -> None:
        for name in ("batches_at_once", "num_latents", "latent_size", "width"):
            value = getattr(self, name)
            self._require(isinstance(value, int) and value >= 1, name, "a whole number >= 1")
        for name in ("latent_rate", "generator_rate"):
            self._require(0 < getattr(self, name) < math.inf, name, "a finite number > 0")
        self._require(0 < self.meta_rate <= 1, "meta_rate", "in (0, 1]")
        if self.objective.iterations < 1:
            raise InputError("objective.iterations must be >= 1: the steps of every batch")
        if self.num_latents < self.images_per_round:
            raise InputError(
                f"num_latents must be at least the images of a round ({self.images_per_round}), "
                f"got {self.num_latents}"
            )

    def _require(self, valid: bool, name: str, expected: str) -> None:
        if not valid:
            raise InputError(f"{name} must be {expected}, got {getattr(self, name)!r}")

    @property
    def images_per_round(self) -> int:
        return self.batches_at_once * self.objective.batch_size

    def with_term(self, term: Term) -> AmortizedSettings:
        """The same with a term more in the objective, in place of the one of its kind, if any."""
        return replace(self, objective=self.objective.with_term(term))

    def without_term(self, kind: str) -> AmortizedSettings:
        """The same without the objective's term of a kind."""
        return replace(self, objective=self.objective.without_term(kind))
