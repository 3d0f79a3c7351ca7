"""Number of threads of a benchmark and its child processes."""

from __future__ import annotations

import os

import torch

from mixmix.runtime.openmp import sleep_while_waiting

__all__ = ["limit_threads"]


def limit_threads(count: int) -> None:
    """Of this process, and by the environment of all that it starts; waiting threads sleep."""
    torch.set_num_threads(count)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)
    sleep_while_waiting()
