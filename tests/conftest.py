"""What every test shares: one thread, and a zoo of tiny networks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read once, when torch is imported: threads that wait take no core from other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# isort: split
import torch
from hypothesis import settings
from tiny_networks import tiny_teacher

from mixmix import Zoo

# No deadline, because a busy machine is no fault; the same examples on every run.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and sums keep one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def interrupts() -> Iterator[None]:
    """A shell that starts the tests in the background ignores interrupts; so would processes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def importable_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of ``benchmarks/`` can be imported."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.fixture
def zoo() -> Zoo:
    """Three families that share four classes."""
    return Zoo([tiny_teacher(name) for name in ("plain", "residual", "depthwise")])
