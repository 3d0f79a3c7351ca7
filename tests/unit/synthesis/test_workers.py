from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest
import torch

from mixmix.synthesis.workers import run_side_by_side

Check = Callable[[], None]


def test_every_job_runs_with_its_threads_and_the_callers_come_back() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    run_side_by_side(
        [lambda check: seen.append(torch.get_num_threads())] * 5, at_once=2, threads_per_job=3
    )
    assert seen == [3] * 5
    assert torch.get_num_threads() == before


def test_as_many_as_asked_for_run_at_a_time() -> None:
    # Each waits for the others: with fewer at a time none would end.
    together = threading.Barrier(3, timeout=60)
    run_side_by_side([lambda check: together.wait() and None] * 3, at_once=3, threads_per_job=1)
    assert not together.broken


def test_no_jobs() -> None:
    before = torch.get_num_threads()
    run_side_by_side([], at_once=2, threads_per_job=before + 1)
    assert torch.get_num_threads() == before


def endless(started: threading.Event) -> Callable[[Check], None]:
    def job(check: Check) -> None:
        started.set()
        while True:
            check()

    return job


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_stops_the_others_and_is_raised(error: type[BaseException]) -> None:
    started = threading.Event()
    before = torch.get_num_threads()

    def fail(check: Check) -> None:
        started.wait()
        raise error("this one")

    with pytest.raises(error, match="this one"):
        run_side_by_side([endless(started), fail], at_once=2, threads_per_job=2)
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals of POSIX threads")
def test_interrupt_of_the_main_thread_stops_all() -> None:
    started = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(check: Check) -> None:
        started.wait()
        signal.pthread_kill(main, signal.SIGINT)
        while True:
            check()

    before = torch.get_num_threads()
    # Whatever starts the tests in the background may ignore interrupts, and then they would hang.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_side_by_side([endless(started), interrupt], at_once=2, threads_per_job=2)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert torch.get_num_threads() == before
