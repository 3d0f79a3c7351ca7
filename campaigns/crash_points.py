"""End runs before, after and amid every step of every write, resume them, and compare.

python campaigns/crash_points.py --out FILE
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from campaigns.commands import leftovers, result
from campaigns.hooks import CRASHED, at_step, count_steps
from campaigns.rows import Tally, run_all
from campaigns.scenarios import SCENARIOS, Result, forked

QUESTION = "Do runs that end amid a write resume with the same bits?"
_MOMENTS = ("before", "half", "after")


def crash_points(name: str, runs: int | None, seed: int, work: Path) -> Tally:
    """End a scenario at every step, or at ``runs`` of them that are drawn."""
    tally, out, run = Tally(f"crash points of {name}", seed), work / "out", SCENARIOS[name]
    counted = forked(lambda: count_steps(lambda: run(out, 0)))
    assert counted.kind == "result", counted
    expected = result(out)
    wanted = forked(lambda: run(out, 0))
    points = [(step, moment) for step in range(counted.value) for moment in _MOMENTS]
    if runs is not None and runs < len(points):
        points = sorted(random.Random(f"{seed} {name}").sample(points, runs))
    tally.processes += 2
    for step, moment in points:
        shutil.rmtree(out, ignore_errors=True)
        tally.runs += 1

        def crash(
            what: str, proceed: Callable[[], Any], half: Callable[[], Any] | None, m: str = moment
        ) -> None:
            if m == "half" and half is not None:
                half()
            if m == "after":
                proceed()
            os._exit(CRASHED)

        def crashing(step: int = step, crash: Any = crash) -> Any:
            at_step(step, crash)
            return run(out, 0)

        ended = forked(crashing)
        resumed = forked(lambda: run(out, 0))
        tally.processes += 2
        _judge(tally, f"{moment} step {step}", ended, resumed, wanted, expected, out)
    return tally


def _judge(
    tally: Tally,
    what: str,
    ended: Result,
    resumed: Result,
    wanted: Result,
    expected: dict[str, str],
    out: Path,
) -> None:
    if ended != Result("ended", CRASHED):
        tally.fault("lost", f"{what}: the run did not come there: {ended}")
    if resumed.kind == "hang":
        tally.fault("hangs", what)
    elif resumed.kind == "refused":
        tally.fault("lost", f"{what}: {resumed.value}")
    elif resumed.kind != "result":
        tally.fault("tracebacks", f"{what}: {resumed}")
    elif resumed != wanted or result(out) != expected:
        tally.fault("not_identical", what)
    tally.left_behind(what, leftovers(out))


if __name__ == "__main__":
    sys.exit(
        run_all(crash_points, tuple(SCENARIOS), question=QUESTION, description=__doc__, runs=0)
    )
