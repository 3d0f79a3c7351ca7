"""Output is redirected only as long as the block runs, in any order of threads."""

from __future__ import annotations

import logging
import sys
import threading
import warnings

import pytest

from mixmix.runtime.quiet import quiet


def test_output_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet(), quiet():
        print("dump of a graph")
        print("hint", file=sys.stderr)
        warnings.warn("hint", stacklevel=1)
        logging.getLogger("torch").error("hint")
    print("result")
    assert capsys.readouterr() == ("result\n", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_errors_are_raised_and_output_comes_back() -> None:
    before = sys.stdout
    with pytest.raises(ValueError), quiet():
        raise ValueError
    assert sys.stdout is before


def test_threads_take_turns() -> None:
    before = sys.stdout
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with quiet():
            inside.set()
            leave.wait(5)

    def second() -> None:
        inside.wait(5)
        with quiet():
            pass

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    inside.wait(5)
    leave.set()
    for thread in threads:
        thread.join()
    assert sys.stdout is before
