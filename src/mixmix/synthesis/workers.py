"""Jobs side by side in threads; an error or an interruption stops them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event

import torch

__all__ = ["run_side_by_side"]


class _StoppedError(Exception):
    """Ends a job because another one failed; it never leaves this module."""


def run_side_by_side(
    jobs: Sequence[Callable[[Callable[[], None]], None]], *, at_once: int, threads_per_job: int
) -> None:
    """Run jobs in threads and wait for them.

    Args:
        jobs: each is called with a function that it calls now and then, and that ends it by an
            exception once the others must stop.
        at_once: how many run at a time; they start in order.
        threads_per_job: threads of torch within each of them.

    Raises:
        BaseException: what the first of them to fail raised, when the others have ended.
    """
    stop = Event()

    def check() -> None:
        if stop.is_set():
            raise _StoppedError

    before = torch.get_num_threads()
    # OpenMP counts threads separately for each of ours.
    pool = ThreadPoolExecutor(
        at_once, initializer=torch.set_num_threads, initargs=(threads_per_job,)
    )
    try:
        futures = [pool.submit(job, check) for job in jobs]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future in done:
                future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
