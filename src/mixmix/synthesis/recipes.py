"""The recipes of the field, as presets of one engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mixmix.errors import InputError
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.terms.bn import BatchNormDistance
from mixmix.synthesis.terms.labels import CrossEntropy
from mixmix.synthesis.terms.patches import PatchEntropy
from mixmix.synthesis.terms.prior import TotalVariation

__all__ = ["RECIPES", "recipe"]

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
        terms=(
            BatchNormDistance(distance="absolute", first_multiplier=10.0),
            CrossEntropy(),
            TotalVariation(weight=0.1),
        ),
    ),
    "zeroq": SynthesisSettings(
        initial="white",
        mixing_share=0.0,
        terms=(BatchNormDistance(distance="absolute"),),
        jitter=0,
        flip=False,
    ),
    "psaq-vit": SynthesisSettings(
        initial="white",
        mixing_share=0.0,
        terms=(CrossEntropy(), PatchEntropy(), TotalVariation(weight=0.1)),
        jitter=0,
        flip=False,
    ),
    "noise": SynthesisSettings(initial="white", iterations=0, mixing_share=0.0),
}


def recipe(name: str, **changes: Any) -> SynthesisSettings:
    """The settings of a named recipe, with changes of fields; ``with_term`` changes its terms.

    ``feature-mixing`` and ``mixmix`` want a zoo of several networks; ``data-mixing`` (which is
    ``mixmix`` on one), ``deepinversion`` and ``zeroq`` are methods for a zoo of one, ``psaq-vit``
    for one transformer. ``refine`` goes on from images, for a network that was not in their zoo.

    Raises:
        InputError: if the name or a change is unknown.

    Examples:
        >>> settings = mixmix.recipe("mixmix", num_images=512, iterations=200)
        >>> settings.num_images, [term.kind for term in settings.terms]
        (512, ['bn', 'ce', 'tv'])
    """
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    try:
        return replace(RECIPES[name], **changes)
    except TypeError as error:
        raise InputError(f"recipe {name!r}: {error}") from error
