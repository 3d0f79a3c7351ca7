"""Time and memory of work in fresh processes."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixmix.runtime.allocator import keep_freed_memory

__all__ = ["Cost", "Worker", "in_fresh_process", "peak_memory_mb", "stopwatch"]


@dataclass
class Cost:
    """CPU-seconds of all threads and finished children, and seconds on the wall."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    def rounded(self) -> dict[str, float]:
        return {
            "cpu_seconds": round(self.cpu_seconds, 2),
            "wall_seconds": round(self.wall_seconds, 2),
        }


@contextmanager
def stopwatch() -> Iterator[Cost]:
    """Its cost is known when the block ends."""
    cost = Cost()
    cpu, wall = _cpu_seconds(), time.perf_counter()
    yield cost
    cost.cpu_seconds, cost.wall_seconds = _cpu_seconds() - cpu, time.perf_counter() - wall


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    # A process that was started by a large one inherits its ru_maxrss; VmHWM starts afresh.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


class Worker:
    """A process that runs functions one after the other, so that no contender disturbs another.

    Args:
        keep_memory: set the allocator as the command line of mixmix does; public loops do not.
    """

    def __init__(self, *, keep_memory: bool) -> None:
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=keep_freed_memory if keep_memory else None,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = self._pool.submit(function, *args, **kwargs).result()
        gc.collect()
        return result


def in_fresh_process(
    function: Callable[..., Any], *args: Any, keep_memory: bool = True, **kwargs: Any
) -> Any:
    """Run a function of a module in a new process; what it returns must be picklable."""
    with Worker(keep_memory=keep_memory) as worker:
        return worker(function, *args, **kwargs)
