"""Run with little memory, then again with enough.

python campaigns/memory.py --runs 30 --seed 0 --out FILE
"""

from __future__ import annotations

import random
import resource
import shutil
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import mixmix
from campaigns.commands import leftovers, result
from campaigns.rows import Tally, run_all
from campaigns.scenarios import SCENARIOS, forked

QUESTION = "Do runs without enough memory end with an error, and resume with the same bits?"
# MiB beyond those that the process has after its imports.
_LEAST, _MOST = 1, 400


def memory(name: str, runs: int, seed: int, work: Path) -> Tally:
    """Run a scenario under limits of memory."""
    tally, out, run = Tally(f"little memory in {name}", seed), work / "out", SCENARIOS[name]
    _import_all()
    wanted = forked(lambda: run(out, 0))
    assert wanted.kind == "result", wanted
    expected = result(out)
    tally.processes += 1
    draws = random.Random(f"{seed} {name}")
    for _ in range(runs):
        shutil.rmtree(out, ignore_errors=True)
        tally.runs += 1
        mebibytes = round(_LEAST * (_MOST / _LEAST) ** draws.random())

        def limited(mebibytes: int = mebibytes) -> Any:
            limit = _address_space() + mebibytes * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            try:
                return run(out, 0)
            finally:  # the report of an error needs memory
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)

        ended = forked(limited)
        resumed = forked(lambda: run(out, 0))
        tally.processes += 2
        what = f"{mebibytes} MiB"
        if ended.kind == "hang" or resumed.kind == "hang":
            tally.fault("hangs", what)
        elif ended.kind == "result" and ended != wanted:
            tally.fault("silent_wrong", what)
        elif ended.kind not in ("result", "memory"):
            tally.fault("tracebacks", f"{what}: {ended}")
        if resumed.kind != "result":
            tally.fault("lost", f"{what}: {resumed}")
        elif resumed != wanted or result(out) != expected:
            tally.fault("not_identical", what)
        tally.left_behind(what, leftovers(out))
    return tally


def _import_all() -> None:
    """Import what runs import late; Python reports imports without memory as other errors."""
    for name in mixmix.__all__:
        getattr(mixmix, name)
    for name in ("torch._dynamo", "torch.onnx", "onnxscript", "onnxruntime", "matplotlib.pyplot"):
        with suppress(ImportError):
            import_module(name)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(run_all(memory, tuple(SCENARIOS), question=QUESTION, description=__doc__, runs=30))
