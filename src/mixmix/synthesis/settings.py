"""Settings of synthesis."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from typing import TypeVar

from mixmix._settings import Settings
from mixmix.errors import InputError
from mixmix.synthesis.initial import INITIAL_KINDS
from mixmix.synthesis.terms.bn import BatchNormDistance
from mixmix.synthesis.terms.labels import CrossEntropy
from mixmix.synthesis.terms.prior import TotalVariation
from mixmix.synthesis.terms.term import Term

__all__ = ["ObjectiveSettings", "SynthesisSettings"]

_S = TypeVar("_S", bound="ObjectiveSettings")
_TERMS = (BatchNormDistance(), CrossEntropy(), TotalVariation(weight=0.1))


@dataclass(frozen=True)
class ObjectiveSettings(Settings):
    """The loss of synthesis, and how networks see the images.

    Attributes:
        batch_size: images optimized together, and stored in one shard; BatchNorm statistics are
            matched per batch, so it should be at least 64.
        terms: terms of the loss, one of each kind, in any order; see ``mixmix.synthesis.terms``,
            ``with_term`` and ``without_term``.
        mixing_fraction: fraction of the steps, evenly spread, in which a second image is pasted
            into a random box of each image (data mixing). At the other steps, statistics are
            matched on the images themselves.
        box_area: smallest and largest fraction of the image that the box covers, within (0, 1).
        members_per_step: networks of the zoo drawn at each step, so that the cost of a step does
            not depend on the size of the zoo; None uses all of them.
        jitter: largest random shift (roll) of the images, in pixels.
        flip: flip every batch horizontally with probability 1/2, unless a network's ``flip`` is
            False.
        precision: of the networks' activations: ``float32``, ``bfloat16`` (images, statistics and
            losses stay in float32), or ``auto``: bfloat16 on GPUs that support it natively.
    """

    batch_size: int = 128
    terms: tuple[Term, ...] = _TERMS
    mixing_fraction: float = 0.5
    box_area: tuple[float, float] = (0.1, 0.5)
    members_per_step: int | None = 1
    jitter: int = 2
    flip: bool = True
    precision: str = "auto"

    def __post_init__(self) -> None:
        self._require_int("batch_size", least=2)
        self._require_int("jitter", least=0)
        self._require_int("members_per_step", least=1, optional=True)
        self._require_range("mixing_fraction", low=0, high=1)
        self._require_one_of("precision", ("auto", "float32", "bfloat16"))
        area = self._numbers("box_area")
        self._require(
            len(area) == 2 and 0 < area[0] <= area[1] < 1,
            "box_area",
            "two increasing numbers within (0, 1)",
        )
        object.__setattr__(self, "box_area", tuple(self.box_area))
        object.__setattr__(self, "terms", self._sorted_terms())

    def with_term(self: _S, term: Term) -> _S:
        """Copy with a term added; it replaces the term of its kind, if there is one.

        Raises:
            InputError: if it is not a term.
        """
        if not isinstance(term, Term):
            raise InputError(f"expected a term, such as TotalVariation(weight=0.1), got {term!r}")
        others = (each for each in self.terms if each.kind != term.kind)
        return replace(self, terms=(*others, term))

    def without_term(self: _S, kind: str) -> _S:
        """Copy without the term of a kind.

        Raises:
            InputError: if there is none.
        """
        kinds = [term.kind for term in self.terms]
        if kind not in kinds:
            raise InputError(f"there is no term {kind!r} to remove; there are {', '.join(kinds)}")
        return replace(self, terms=tuple(each for each in self.terms if each.kind != kind))

    @property
    def active_terms(self) -> tuple[Term, ...]:
        """The terms with nonzero weight, in the order of the sum."""
        return tuple(term for term in self.terms if term.weight)

    def _numbers(self, name: str) -> tuple[float, ...]:
        """The value of a field if it is a sequence of numbers; else empty."""
        value = getattr(self, name)
        is_valid = isinstance(value, tuple | list) and all(
            isinstance(v, int | float) for v in value
        )
        return tuple(float(v) for v in value) if is_valid else ()

    def _sorted_terms(self) -> tuple[Term, ...]:
        """Sorted, so that results do not depend on the order in which terms are given."""
        self._require(
            isinstance(self.terms, tuple | list) and all(isinstance(t, Term) for t in self.terms),
            "terms",
            "a sequence of terms, such as (CrossEntropy(), TotalVariation(weight=0.1))",
        )
        for kind, count in Counter(term.kind for term in self.terms).items():
            if count > 1:
                raise InputError(
                    f"terms has {count} terms of the kind {kind!r}, expected one of each; raise "
                    "the weight of one, or use another kind for your own term"
                )
        return tuple(sorted(self.terms, key=lambda term: (term.order, term.kind)))


@dataclass(frozen=True)
class SynthesisSettings(ObjectiveSettings):
    """How pixels are optimized (MixMix, Li et al. 2021, section 3), in addition to the objective.

    Attributes:
        num_images: number of images; labels are balanced over the classes.
        initial: images to start from: noise, ``pink``, with the spectrum of photographs, or
            ``white``; or ``leaves``, drawn shapes that occlude one another (see ``dead_leaves``).
        iterations: optimizer steps per batch; 0 returns the initial images.
        learning_rate: initial learning rate of Adam on pixels in [0, 1], with cosine decay to 0.
        scales: increasing fractions of the full resolution, ending with 1. The iterations are
            divided equally among them, and images are enlarged from one to the next. Networks run
            at the same fraction of their own resolution if they can.

    >>> settings = mixmix.SynthesisSettings(num_images=64, iterations=200, scales=(0.5, 1.0))
    >>> [term.kind for term in settings.without_term("tv").terms]
    ['bn', 'ce']
    """

    num_images: int = 256
    initial: str = "pink"
    iterations: int = 100
    learning_rate: float = 0.1
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_int("num_images", least=1)
        self._require_int("iterations", least=0)
        self._require_range("learning_rate", low=0, ends="()")
        self._require_one_of("initial", INITIAL_KINDS)
        scales = self._numbers("scales")
        self._require(
            bool(scales)
            and all(a < b for a, b in itertools.pairwise((0.0, *scales)))
            and scales[-1] == 1,
            "scales",
            "increasing numbers within (0, 1], of which the last is 1",
        )
        object.__setattr__(self, "scales", scales)
