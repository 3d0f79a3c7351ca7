"""Settings of published methods."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from mixmix._display import did_you_mean
from mixmix.errors import InputError
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.terms.bn import BatchNormDistance
from mixmix.synthesis.terms.labels import CrossEntropy
from mixmix.synthesis.terms.prior import TotalVariation

__all__ = ["RECIPES", "recipe"]

_PRIOR = TotalVariation(weight=0.1)
_WHITE = SynthesisSettings(initial="white", mixing_fraction=0.0)

# Recipes differ only in what defines their method, so that a comparison at equal numbers of images
# and iterations compares methods.
RECIPES: dict[str, SynthesisSettings] = {
    "mixmix": SynthesisSettings(),
    "refine": SynthesisSettings(iterations=20, learning_rate=0.05),
    "feature-mixing": SynthesisSettings(mixing_fraction=0.0),
    "data-mixing": SynthesisSettings(),
    "deepinversion": replace(
        _WHITE,
        terms=(
            BatchNormDistance(distance="absolute", first_multiplier=10.0),
            CrossEntropy(),
            _PRIOR,
        ),
    ),
    "zeroq": replace(_WHITE, terms=(BatchNormDistance(distance="absolute"),), jitter=0, flip=False),
    "without-batch-norm": SynthesisSettings(
        initial="leaves", iterations=30, learning_rate=0.005, terms=(CrossEntropy(), _PRIOR)
    ),
    "procedural": SynthesisSettings(initial="leaves", iterations=0),
    "noise": replace(_WHITE, iterations=0),
}


def recipe(name: str, **changes: Any) -> SynthesisSettings:
    """Settings of a published method.

    ``mixmix`` and ``feature-mixing`` are for a zoo of several networks; ``data-mixing`` (which is
    ``mixmix`` with one network), ``deepinversion`` and ``zeroq`` for one network. ``refine`` adapts
    images to a network outside their zoo. ``without-batch-norm`` is for networks that have none: it
    changes drawn images little. ``procedural`` and ``noise`` do not optimize.

    Args:
        name: of the recipe.
        changes: fields of ``SynthesisSettings``; ``with_term`` changes the terms of the result.

    Raises:
        InputError: if the name or a field is unknown, or a value is out of range.

    >>> mixmix.recipe("deepinversion", num_images=64).mixing_fraction
    0.0
    """
    if name not in RECIPES:
        raise InputError(
            f"unknown recipe {name!r}; known: {', '.join(RECIPES)}" + did_you_mean(name, RECIPES)
        )
    known = [field.name for field in fields(SynthesisSettings)]
    if unknown := sorted(set(changes) - set(known)):
        raise InputError(
            f"recipe {name!r} has no {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(sorted(known))}" + did_you_mean(unknown, known)
        )
    return replace(RECIPES[name], **changes)
