from __future__ import annotations

import json
from typing import Any

import pytest
from tiny_networks import tiny_spec

from mixmix import ModelSpec
from mixmix.errors import InputError


def test_round_trip_through_json() -> None:
    spec = tiny_spec("plain", classes=["a", "b", "c", "d"], top1=93.5, license="MIT")
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_lists_become_tuples() -> None:
    spec = ModelSpec("n", "module", [1, 8, 8], [0.5], [0.2], 10)  # type: ignore[arg-type]
    assert (spec.input_shape, spec.mean, spec.std) == ((1, 8, 8), (0.5,), (0.2,))
    hash(spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": [3, 32]}, "input_shape must be .channels, height, width."),
        ({"input_shape": [3, 0, 32]}, "input_shape must be"),
        ({"input_shape": [3, 32.5, 32]}, "three whole numbers"),
        ({"input_shape": ["3", "32", "32"]}, "three whole numbers"),
        ({"input_shape": 32}, "input_shape must be a sequence, got 32"),
        ({"mean": [0.5]}, "one value for each of the 3 channels, got 1 and 3"),
        ({"std": [0.5, 0.5]}, "got 3 and 2"),
        ({"mean": "0.5"}, "mean must be a sequence, got .0.5."),
        ({"mean": ["a", "b", "c"]}, "finite numbers"),
        ({"mean": [float("nan")] * 3}, "finite numbers"),
        ({"std": [0.5, float("inf"), 0.5]}, "finite numbers"),
        ({"std": [0.5, 0.0, 0.5]}, "std must be positive"),
        ({"num_classes": -1}, "num_classes must be a whole number >= 0, got -1"),
        ({"num_classes": "4"}, "num_classes must be a whole number >= 0, got '4'"),
        ({"num_classes": 1}, "num_classes is 1, .* set num_classes = 2"),
        ({"classes": ["cat", "dog"]}, "2 class names for 4 classes"),
        ({"classes": "abcd"}, "classes must be a sequence, got 'abcd'"),
        ({"color": "red"}, "unknown keys in a model spec: color; known: name, source"),
    ],
)
def test_bad_specs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_spec("plain", **changes)


def test_missing_keys_are_named() -> None:
    with pytest.raises(InputError, match="also needs mean, std, num_classes"):
        ModelSpec.from_dict({"name": "n", "source": "module", "input_shape": [3, 8, 8]})
