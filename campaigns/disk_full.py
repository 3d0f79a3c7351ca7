"""Fail steps of writes with "no space left on device", and run again with space.

python campaigns/disk_full.py --out FILE
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from campaigns.commands import leftovers, result
from campaigns.hooks import at_step, count_steps
from campaigns.rows import Tally, run_all
from campaigns.scenarios import SCENARIOS, forked

QUESTION = "Do runs that meet a full disk end in one line, and resume with the same bits?"


def disk_full(name: str, runs: int | None, seed: int, work: Path) -> Tally:
    """Fail every step of a scenario's writes, or ``runs`` of them that are drawn."""
    tally, out, run = Tally(f"full disk in {name}", seed), work / "out", SCENARIOS[name]
    counted = forked(lambda: count_steps(lambda: run(out, 0)))
    assert counted.kind == "result", counted
    expected = result(out)
    points = list(range(counted.value))
    if runs is not None and runs < len(points):
        points = sorted(random.Random(f"{seed} {name}").sample(points, runs))
    tally.processes += 1
    for step in points:
        shutil.rmtree(out, ignore_errors=True)
        tally.runs += 1

        def fail(what: str, proceed: Callable[[], Any], half: Callable[[], Any] | None) -> None:
            if what == "unlink":  # needs no space
                proceed()
                return
            if half is not None:
                half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def failing(step: int = step, fail: Any = fail) -> Any:
            at_step(step, fail)
            return run(out, 0)

        ended = forked(failing)
        names = leftovers(out)
        resumed = forked(lambda: run(out, 0))
        tally.processes += 2
        if ended.kind == "hang" or resumed.kind == "hang":
            tally.fault("hangs", f"step {step}")
        elif ended.kind == "refused" and "disk is full" not in ended.value:
            tally.fault("tracebacks", f"step {step}: {ended.value}")
        elif ended.kind not in ("refused", "result"):
            tally.fault("tracebacks", f"step {step}: {ended}")
        elif resumed.kind != "result":
            tally.fault("lost", f"step {step}: {resumed}")
        elif result(out) != expected:
            tally.fault("not_identical", f"step {step}")
        tally.left_behind(f"step {step}", names)
    return tally


if __name__ == "__main__":
    sys.exit(run_all(disk_full, tuple(SCENARIOS), question=QUESTION, description=__doc__, runs=0))
