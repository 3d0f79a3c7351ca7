from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from mixmix import SynthesisSettings, recipe
from mixmix.errors import InputError
from mixmix.synthesis.recipes import RECIPES


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_survive_json(name: str) -> None:
    settings = recipe(name, num_images=7)
    assert settings.num_images == 7
    assert SynthesisSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_recipes_differ_in_what_their_method_is_about() -> None:
    assert recipe("mixmix").mixing_fraction == recipe("data-mixing").mixing_fraction > 0
    assert (
        not recipe("feature-mixing").mixing_fraction and not recipe("deepinversion").mixing_fraction
    )
    assert {recipe(name).members_per_step for name in RECIPES} == {1}
    assert [term.kind for term in recipe("zeroq").terms] == ["bn"]
    assert recipe("noise").iterations == recipe("procedural").iterations == 0
    assert "bn" not in [term.kind for term in recipe("without-batch-norm").terms]


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        recipe("mixmix").num_images = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial": "gray"}, "initial must be one of pink, white, leaves, got 'gray'"),
        ({"precision": "int8"}, "precision must be one of auto, float32, bfloat16, got 'int8'"),
        ({"num_images": 0}, "num_images must be a whole number >= 1, got 0"),
        ({"num_images": 2.5}, "num_images must be a whole number >= 1, got 2.5"),
        ({"batch_size": 1}, "batch_size must be a whole number >= 2, got 1"),
        ({"iterations": -1}, "iterations must be a whole number >= 0"),
        ({"iterations": "200"}, "iterations must be a whole number >= 0, got '200'"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number > 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"box_area": (0.0, 0.5)}, "box_area must be two increasing numbers"),
        ({"box_area": (0.5, 0.1)}, "box_area must be"),
        ({"box_area": (0.5, 1.0)}, "box_area must be"),
        ({"box_area": (0.5,)}, "box_area must be"),
        ({"box_area": 0.5}, "box_area must be"),
        ({"box_area": "0.1, 0.5"}, "box_area must be"),
        ({"members_per_step": 0}, "members_per_step must be a whole number >= 1 or None"),
        ({"members_per_step": 1.5}, "members_per_step must be a whole number >= 1 or None"),
        ({"mixing_fraction": 1.5}, r"mixing_fraction must be in \[0, 1\], got 1.5"),
        ({"mixing_fraction": -0.1}, r"mixing_fraction must be in \[0, 1\]"),
        ({"jitter": -1}, "jitter must be a whole number >= 0"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SynthesisSettings(**changes)


def test_unknown_recipe_and_unknown_setting() -> None:
    with pytest.raises(InputError, match="unknown recipe 'mix'; known: mixmix, refine"):
        recipe("mix")
    with pytest.raises(InputError, match="recipe 'mixmix' has no 'color'; it has"):
        recipe("mixmix", color="red")


def test_with_term_refuses_what_is_no_term() -> None:
    with pytest.raises(InputError, match="expected a term, .* got 'tv'"):
        recipe("mixmix").with_term("tv")  # type: ignore[arg-type]
