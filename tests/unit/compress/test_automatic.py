"""Recoveries take fewer steps for costly networks."""

from __future__ import annotations

import pytest

import mixmix
from mixmix.compress import automatic
from mixmix.compress.automatic import affordable


def test_costly_training_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    model, method = mixmix.load("bundled:resnet"), mixmix.PruneChannels(max_macs=0.5)
    assert affordable(method, model) is method
    monkeypatch.setattr(automatic, "_BUDGET", automatic._BUDGET / 100)
    shorter = affordable(method, model)
    assert shorter.recovery[0] == method.recovery[0]
    assert 50 < shorter.recovery[1].training.steps < 150


def test_methods_without_training_stay() -> None:
    method = mixmix.Quantize("W8A8")
    assert affordable(method, mixmix.load("bundled:resnet")) is method
