"""Start two processes in one folder: the second while the first waits at a step of a write.

python campaigns/two_processes.py --runs 50 --seed 0 --out FILE
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
from campaigns.hooks import at_step, count_steps
from campaigns.rows import Tally, run_all
from campaigns.scenarios import SCENARIOS, forked, started, waited

QUESTION = "Does a folder hold one run, whoever else starts in it?"
_NAMES = ("synthesize", "generate", "distill", "prune")


def two_processes(name: str, runs: int, seed: int, work: Path) -> Tally:
    """Start the same run or that of another seed, while a run is stopped."""
    tally, out, run = Tally(f"two processes in {name}", seed), work / "out", SCENARIOS[name]
    expected, wanted = [], []
    for own in (0, 1):
        shutil.rmtree(out, ignore_errors=True)
        wanted.append(forked(lambda own=own: run(out, own)))
        expected.append(result(out))
    shutil.rmtree(out)
    steps = forked(lambda: count_steps(lambda: run(out, 0))).value
    draws = random.Random(f"{seed} {name}")
    for _ in range(runs):
        shutil.rmtree(out, ignore_errors=True)
        step, other = draws.randrange(steps), draws.randrange(2)
        (stopped, is_stopped), (go, goes) = os.pipe(), os.pipe()

        def wait(
            what: str,
            proceed: Callable[[], Any],
            half: Callable[[], Any] | None,
            tell: int = is_stopped,
            listen: int = go,
        ) -> Any:
            os.write(tell, b".")
            os.read(listen, 1)
            return proceed()

        def first(step: int = step, wait: Any = wait) -> Any:
            at_step(step, wait)
            return run(out, 0)

        running = started(first)
        os.read(stopped, 1)
        second = forked(lambda other=other: run(out, other))
        os.write(goes, b".")
        ended = waited(*running)
        for each in (stopped, is_stopped, go, goes):
            os.close(each)
        tally.runs += 1
        tally.processes += 2
        what = f"step {step}, seed {other}"
        kinds = (ended.kind, second.kind)
        if "hang" in kinds:
            tally.fault("hangs", what)
        elif not set(kinds) <= {"result", "refused"}:
            tally.fault("tracebacks", f"{what}: {ended} {second}")
        elif kinds == ("refused", "refused"):
            tally.fault("lost", f"{what}: {ended} {second}")
        else:
            winner = 0 if ended.kind == "result" else other
            found = wanted[winner]
            if (ended.kind == "result" and ended != wanted[0]) or (
                second.kind == "result" and second != wanted[other]
            ):
                tally.fault("silent_wrong", f"{what}: {ended} {second}, expected {found}")
            elif result(out) != expected[winner]:
                tally.fault("not_identical", what)
        tally.left_behind(what, leftovers(out))
    return tally


if __name__ == "__main__":
    sys.exit(run_all(two_processes, _NAMES, question=QUESTION, description=__doc__, runs=50))
