"""Networks that settings hold are on the device of the run, and have its specs."""

from __future__ import annotations

from typing import Any

import pytest

from mixmix import Distill, GeneratedImages, QuantizeAware, Zoo
from mixmix.cli import execute
from mixmix.cli.execute import _adapted
from mixmix.cli.inputs import load_zoo
from mixmix.cli.run_file import Run
from mixmix.errors import InputError


def method() -> Distill:
    zoo = Zoo(list(Zoo.load(["bundled:vgg", "bundled:resnet"])), weights=(1.0, 2.0))
    return Distill("bundled:vgg", fresh=GeneratedImages(zoo))


def test_zoos_of_methods_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    distill, moves = method(), []
    moved = Zoo.load(["bundled:vovnet"])

    def load(*given: Any) -> Zoo:
        moves.append(given)
        return moved

    monkeypatch.setattr(execute, "load_zoo", load)
    assert _adapted(distill, Run(), "cpu") is distill and not moves
    found = _adapted(distill, Run(), "cuda:1")
    assert moves == [(distill.fresh.zoo, "cuda:1", (1.0, 2.0), None)]  # type: ignore[union-attr]
    assert found.fresh.zoo is moved
    assert found.training == distill.training
    assert _adapted(QuantizeAware(), Run(), "cuda") == QuantizeAware()


def test_fields_of_specs_are_those_of_all_networks() -> None:
    run = Run.from_dict({"spec": {"flip": False}})
    assert Run.from_dict(run.to_dict()) == run
    found = _adapted(method(), run, "cpu").fresh.zoo
    assert found.weights == (1.0, 2.0) and not any(model.spec.may_flip for model in found)
    assert not load_zoo(["bundled:vgg"], "cpu", spec=run.spec).may_flip
    for unknown in ("flop", "weights", "name"):
        with pytest.raises(
            InputError, match=rf"unknown keys in \[spec\]: {unknown}; known: .*flip"
        ):
            load_zoo(["bundled:vgg"], "cpu", spec={unknown: False})
