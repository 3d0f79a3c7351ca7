"""Settings of amortized synthesis."""

from __future__ import annotations

from dataclasses import dataclass

from mixmix.synthesis.settings import ObjectiveSettings
from mixmix.synthesis.terms.bn import BatchNormDistance
from mixmix.synthesis.terms.labels import CrossEntropy
from mixmix.synthesis.terms.prior import TotalVariation
from mixmix.synthesis.terms.similarity import Similarity
from mixmix.synthesis.terms.term import Term

__all__ = ["AmortizedSettings"]

# In a few steps, statistics cannot weigh as much as with pixels.
_TERMS = (
    BatchNormDistance(weight=0.5, distance="relative"),
    CrossEntropy(),
    TotalVariation(weight=0.1),
    Similarity(weight=10.0),
)


@dataclass(frozen=True)
class AmortizedSettings(ObjectiveSettings):
    """How batches are generated, in addition to the objective; see ``generate``.

    Without the term ``Similarity``, images of one class become similar.

    Attributes:
        steps: optimizer steps per batch.
        batches_at_once: batches per round. They start from the same generator, and run in parallel
            on a CPU.
        num_latents: number of stored latents; at least the number of images in a round.
        latent_size: size of a latent.
        width: channels of the last stage of the generator.
        latent_rate: Adam's learning rate for latents.
        generator_rate: Adam's learning rate for the weights of the generator.
        meta_rate: step size in (0, 1] of the generator and latents toward the results of a round.

    >>> settings = mixmix.AmortizedSettings(steps=5, batch_size=64)
    >>> settings.images_per_round
    128
    """

    terms: tuple[Term, ...] = _TERMS
    steps: int = 10
    batches_at_once: int = 2
    num_latents: int = 1280
    latent_size: int = 128
    width: int = 16
    latent_rate: float = 5e-2
    generator_rate: float = 3e-3
    meta_rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_int("steps", "batches_at_once", "latent_size", "width", least=1)
        self._require_int("num_latents", least=self.images_per_round)
        self._require_range("latent_rate", "generator_rate", low=0, ends="()")
        self._require_range("meta_rate", low=0, high=1, ends="(]")

    @property
    def images_per_round(self) -> int:
        """Number of images in a round."""
        return self.batches_at_once * self.batch_size
