"""Jobs in parallel threads; an error or an interrupt stops all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event
from typing import TypeVar

import torch

__all__ = ["run_side_by_side"]

_T = TypeVar("_T")


class _StoppedError(BaseException):
    """Ends a job because another one failed; no ``except Exception`` of a job catches it."""


def run_side_by_side(
    jobs: Sequence[Callable[[Callable[[], None]], _T]], *, at_once: int, threads_per_job: int
) -> list[_T]:
    """Run jobs in threads, and return their results in order.

    Args:
        jobs: each gets a function to call regularly; it raises once the job has to stop.
        at_once: number of jobs in parallel; they start in order.
        threads_per_job: torch threads of each job.

    Raises:
        BaseException: the first exception of a job, after all jobs have ended.
    """
    stop = Event()

    def check() -> None:
        if stop.is_set():
            raise _StoppedError

    before = torch.get_num_threads()
    # OpenMP's number of threads is per calling thread.
    pool = ThreadPoolExecutor(
        at_once, initializer=torch.set_num_threads, initargs=(threads_per_job,)
    )
    try:
        futures = [pool.submit(job, check) for job in jobs]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future in done:
                future.result()
        return [future.result() for future in futures]
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
