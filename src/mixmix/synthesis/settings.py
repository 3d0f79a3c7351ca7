"""Settings of synthesis; the recipes of the field are presets of the same engine."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

from mixmix._settings import Settings
from mixmix.errors import InputError

__all__ = ["RECIPES", "SynthesisSettings", "recipe"]

_INITIALS = ("pink", "white")
_PRECISIONS = ("auto", "float32", "bfloat16")
_DISTANCES = ("auto", "absolute", "relative")
_WEIGHTS = (
    "bn_weight",
    "first_bn_multiplier",
    "ce_weight",
    "tv_weight",
    "l2_weight",
    "adversarial_weight",
    "patch_weight",
)


@dataclass(frozen=True)
class SynthesisSettings(Settings):
    """How images are synthesized (MixMix, Li et al. 2021, section 3; see ``terms`` for the losses).

    Attributes:
        num_images: how many images; labels are balanced over the classes.
        batch_size: images optimized together, which is also the number in a shard; BatchNorm
            statistics are matched per batch, so it should be at least 64.
        initial: noise to start from: ``pink``, whose spectrum is that of photographs, or ``white``.
        iterations: optimizer steps per batch; 0 keeps the initial noise.
        learning_rate: of Adam on pixels in [0, 1], decayed to zero by a cosine.
        bn_weight: of the BatchNorm statistics.
        bn_distance: ``absolute``: Euclidean, summed over layers, as in ZeroQ, DeepInversion and
            MixMix, eq. 2; ``relative``: in units of what each channel varies by, a mean over
            layers, so that one weight suits all networks; ``auto``: absolute, but for networks
            whose channels vary so much that labels would be lost beside it.
        first_bn_multiplier: extra weight of the first BatchNorm layer of every network.
        ce_weight: of the cross-entropy with the labels.
        tv_weight: of the total variation, a mean over pixels.
        adversarial_weight: of the agreement with a student, where there is one (``1 - JS / ln 2``),
            so that images are made on which it does not agree with the zoo yet.
        patch_weight: of the entropy of the likeness of patches, which transformers (networks with
            LayerNorm) see; see ``terms.patch_entropy``.
        l2_weight: of the mean squared distance of the pixels from mid-gray.
        mixing_share: share of the steps, evenly spread, at which a second image is shrunk into a
            random box of each image; 0 does without data mixing. At the other steps the images
            themselves match the statistics, which mixtures alone would not ask of them.
        box_area: smallest and largest share of the image that the box covers, within (0, 1).
        members_per_step: zoo members drawn at each step, so that a step costs the same however
            large the zoo is; None takes all of them.
        balance_members: weigh the absolute distance of each network by the mean number of BatchNorm
            layers in the zoo over its own, so that deep networks do not drown the others; the
            relative one is balanced by itself.
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
    bn_weight: float = 1.0
    bn_distance: str = "auto"
    first_bn_multiplier: float = 1.0
    ce_weight: float = 1.0
    tv_weight: float = 0.1
    l2_weight: float = 0.0
    adversarial_weight: float = 0.0
    patch_weight: float = 0.0
    mixing_share: float = 0.5
    box_area: tuple[float, float] = (0.1, 0.5)
    members_per_step: int | None = 1
    balance_members: bool = True
    scales: tuple[float, ...] = (1.0,)
    jitter: int = 2
    flip: bool = True
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "iterations", "jitter"):
            self._require(isinstance(getattr(self, name), int), name, "a whole number")
        for name in ("learning_rate", "mixing_share", *_WEIGHTS):
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
        for name in _WEIGHTS:
            self._require(getattr(self, name) >= 0, name, ">= 0")
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
        self._require(self.jitter >= 0, "jitter", ">= 0")
        self._require(self.initial in _INITIALS, "initial", f"one of {', '.join(_INITIALS)}")
        self._require(
            self.bn_distance in _DISTANCES, "bn_distance", f"one of {', '.join(_DISTANCES)}"
        )
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

    def _require(self, valid: bool, name: str, expected: str) -> None:
        if not valid:
            raise InputError(f"{name} must be {expected}, got {getattr(self, name)!r}")


# Each preset differs from another only in what its method is about, so that a comparison at equal
# images and iterations compares the methods.
RECIPES: dict[str, SynthesisSettings] = {
    "mixmix": SynthesisSettings(),
    "refine": SynthesisSettings(iterations=20, learning_rate=0.05),
    "feature-mixing": SynthesisSettings(mixing_share=0.0),
    "data-mixing": SynthesisSettings(),
    "deepinversion": SynthesisSettings(
        initial="white",
        mixing_share=0.0,
        bn_distance="absolute",
        first_bn_multiplier=10.0,
    ),
    "zeroq": SynthesisSettings(
        initial="white",
        mixing_share=0.0,
        bn_distance="absolute",
        ce_weight=0.0,
        tv_weight=0.0,
        jitter=0,
        flip=False,
    ),
    "psaq-vit": SynthesisSettings(
        initial="white", mixing_share=0.0, bn_weight=0.0, patch_weight=1.0, jitter=0, flip=False
    ),
    "noise": SynthesisSettings(initial="white", iterations=0, mixing_share=0.0),
}


def recipe(name: str, **changes: Any) -> SynthesisSettings:
    """The settings of a named recipe, with changes.

    ``feature-mixing`` and ``mixmix`` want a zoo of several networks; ``data-mixing`` (which is
    ``mixmix`` on one), ``deepinversion`` and ``zeroq`` are methods for a zoo of one, ``psaq-vit``
    for one transformer. ``refine`` goes on from images, for a network that was not in their zoo.

    Raises:
        InputError: if the name or a change is unknown.
    """
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    try:
        return replace(RECIPES[name], **changes)
    except TypeError as error:
        raise InputError(f"recipe {name!r}: {error}") from error
