"""Settings of synthesis."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace

from mixmix._settings import Settings
from mixmix.errors import InputError
from mixmix.synthesis.terms.bn import BatchNormDistance
from mixmix.synthesis.terms.labels import CrossEntropy
from mixmix.synthesis.terms.prior import TotalVariation
from mixmix.synthesis.terms.term import Term

__all__ = ["SynthesisSettings"]

_INITIALS = ("pink", "white")
_PRECISIONS = ("auto", "float32", "bfloat16")
_TERMS = (BatchNormDistance(), CrossEntropy(), TotalVariation(weight=0.1))


@dataclass(frozen=True)
class SynthesisSettings(Settings):
    """How images are synthesized (MixMix, Li et al. 2021, section 3).

    Attributes:
        num_images: how many images; labels are balanced over the classes.
        batch_size: images optimized together, which is also the number in a shard; BatchNorm
            statistics are matched per batch, so it should be at least 64.
        initial: noise to start from: ``pink``, whose spectrum is that of photographs, or ``white``.
        iterations: optimizer steps per batch; 0 keeps the initial noise.
        learning_rate: of Adam on pixels in [0, 1], decayed to zero by a cosine.
        terms: of the loss, one of each kind, in whatever order; see ``mixmix.synthesis.terms``,
            ``with_term`` and ``without_term``.
        mixing_share: share of the steps, evenly spread, at which a second image is shrunk into a
            random box of each image; 0 does without data mixing. At the other steps the images
            themselves match the statistics, which mixtures alone would not ask of them.
        box_area: smallest and largest share of the image that the box covers, within (0, 1).
        members_per_step: zoo members drawn at each step, so that a step costs the same however
            large the zoo is; None takes all of them.
        scales: sizes of the images, as increasing shares of the full one, which is the last: an
            equal part of the iterations is done at each, and what came of it is enlarged. Networks
            run at the same share of their own resolution, if they can.
        jitter: largest random shift in pixels (rolled) before the networks see the images.
        flip: flip every batch horizontally with probability 1/2.
        precision: of the networks' activations: ``float32``, ``bfloat16`` (images, statistics and
            losses stay in float32), or ``auto``, which is bfloat16 on GPUs with units for it.
    """

    num_images: int = 256
    batch_size: int = 128
    initial: str = "pink"
    iterations: int = 100
    learning_rate: float = 0.1
    terms: tuple[Term, ...] = _TERMS
    mixing_share: float = 0.5
    box_area: tuple[float, float] = (0.1, 0.5)
    members_per_step: int | None = 1
    scales: tuple[float, ...] = (1.0,)
    jitter: int = 2
    flip: bool = True
    precision: str = "auto"

    def with_term(self, term: Term) -> SynthesisSettings:
        """The same with a term more, in place of the one of its kind, if there is one."""
        others = (each for each in self.terms if each.kind != term.kind)
        return replace(self, terms=(*others, term))

    def without_term(self, kind: str) -> SynthesisSettings:
        """The same without the term of a kind.

        Raises:
            InputError: if there is none.
        """
        kinds = [term.kind for term in self.terms]
        if kind not in kinds:
            raise InputError(
                f"there is no term {kind!r} to leave out; there are {', '.join(kinds)}"
            )
        return replace(self, terms=tuple(each for each in self.terms if each.kind != kind))

    @property
    def weighed_terms(self) -> tuple[Term, ...]:
        """The terms that count, in the order of the sum."""
        return tuple(term for term in self.terms if term.weight)

    @property
    def needs_student(self) -> bool:
        """Whether a term asks for a network under training."""
        return any(term.needs_student for term in self.weighed_terms)

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "iterations", "jitter"):
            self._require(isinstance(getattr(self, name), int), name, "a whole number")
        for name in ("learning_rate", "mixing_share"):
            value = getattr(self, name)
            self._require(
                isinstance(value, int | float) and math.isfinite(value), name, "a finite number"
            )
        self._require(
            isinstance(self.box_area, tuple | list)
            and all(isinstance(share, int | float) for share in self.box_area),
            "box_area",
            "two increasing numbers within (0, 1)",
        )
        object.__setattr__(self, "box_area", tuple(self.box_area))
        self._require(self.num_images >= 1, "num_images", ">= 1")
        self._require(self.batch_size >= 2, "batch_size", ">= 2")
        self._require(self.iterations >= 0, "iterations", ">= 0")
        self._require(self.learning_rate > 0, "learning_rate", "> 0")
        self._require(0 <= self.mixing_share <= 1, "mixing_share", "within [0, 1]")
        self._require(
            len(self.box_area) == 2 and 0 < self.box_area[0] <= self.box_area[1] < 1,
            "box_area",
            "two increasing numbers within (0, 1)",
        )
        self._require(
            self.members_per_step is None
            or (isinstance(self.members_per_step, int) and self.members_per_step >= 1),
            "members_per_step",
            "None or a whole number >= 1",
        )
        object.__setattr__(self, "scales", self._checked_scales())
        object.__setattr__(self, "terms", self._checked_terms())
        self._require(self.jitter >= 0, "jitter", ">= 0")
        self._require(self.initial in _INITIALS, "initial", f"one of {', '.join(_INITIALS)}")
        self._require(
            self.precision in _PRECISIONS, "precision", f"one of {', '.join(_PRECISIONS)}"
        )

    def _checked_scales(self) -> tuple[float, ...]:
        expected = "increasing numbers within (0, 1], the last of them 1"
        is_sequence = isinstance(self.scales, tuple | list)
        self._require(
            is_sequence and all(isinstance(each, int | float) for each in self.scales),
            "scales",
            expected,
        )
        scales = tuple(float(each) for each in self.scales)
        increasing = all(a < b for a, b in itertools.pairwise((0.0, *scales)))
        self._require(bool(scales) and increasing and scales[-1] == 1, "scales", expected)
        return scales

    def _checked_terms(self) -> tuple[Term, ...]:
        """Sorted, so that the same terms are the same settings and give the same bits."""
        is_sequence = isinstance(self.terms, tuple | list)
        self._require(
            is_sequence and all(isinstance(each, Term) for each in self.terms),
            "terms",
            "a sequence of terms, such as (CrossEntropy(), TotalVariation(weight=0.1))",
        )
        kinds = Counter(term.kind for term in self.terms)
        twice = [kind for kind, count in kinds.items() if count > 1]
        if twice:
            raise InputError(
                f"terms has two of the kind {twice[0]!r}, expected one of each; raise the weight "
                "of one, or give a term of your own a kind of its own"
            )
        return tuple(sorted(self.terms, key=lambda term: (term.order, term.kind)))

    def _require(self, valid: bool, name: str, expected: str) -> None:
        if not valid:
            raise InputError(f"{name} must be {expected}, got {getattr(self, name)!r}")
