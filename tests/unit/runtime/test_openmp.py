"""Waiting threads sleep if the caller wants it, and only then."""

from __future__ import annotations

import os
import sys

import pytest

from mixmix.runtime.openmp import sleep_while_waiting


def test_it_is_set_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert not sleep_while_waiting()  # torch is there already
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delitem(sys.modules, "torch")
    assert sleep_while_waiting()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
