"""Networks that settings hold are on the device of the run."""

from __future__ import annotations

from typing import Any

import pytest

from mixmix import Distill, GeneratedImages, QuantizeAware, Zoo
from mixmix.cli.execute import _on_device


def test_zoos_of_methods_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = Zoo(list(Zoo.load(["bundled:vgg", "bundled:resnet"])), weights=(1.0, 2.0))
    method = Distill("bundled:vgg", fresh=GeneratedImages(zoo))
    moves: list[tuple[list[Any], dict[str, Any]]] = []
    moved = Zoo.load(["bundled:vovnet"])

    def load(models: list[Any], **options: Any) -> Zoo:
        moves.append((models, options))
        return moved

    monkeypatch.setattr(Zoo, "load", load)
    assert _on_device(method, "cpu") is method and not moves
    found = _on_device(method, "cuda:1")
    assert moves == [(list(zoo), {"weights": (1.0, 2.0), "device": "cuda:1"})]
    assert found.fresh.zoo is moved
    assert found.training == method.training
    assert _on_device(QuantizeAware(), "cuda") == QuantizeAware()
