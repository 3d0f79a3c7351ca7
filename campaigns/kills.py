"""End commands by a signal at a random moment, resume them, and compare with undisturbed runs.

python campaigns/kills.py --runs 200 --seed 0 --out FILE
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from campaigns.commands import COMMANDS, Command, Ended, environment, inputs, leftovers, result, run
from campaigns.rows import Tally, run_all

QUESTION = "Do killed commands resume with the same bits?"
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_CODES = {signal.SIGTERM: 128 + 15, signal.SIGINT: 128 + 2}
# Seconds that a process has for its end after a signal.
_PATIENCE = 60


def kills(name: str, runs: int, seed: int, work: Path) -> Tally:
    """Kill a command in ``runs`` runs, each once or twice."""
    tally = Tally(f"kills of {name}", seed)
    command, draws = COMMANDS[name], random.Random(f"{seed} {name}")
    temporary = work.parent / "temporary"
    temporary.mkdir(parents=True, exist_ok=True)
    images = inputs(work.parent / "inputs", temporary)
    # All runs use one path, since files contain it.
    out = work / "out"
    started = time.monotonic()
    ended = run(command.line(images, out), environment(temporary))
    seconds = time.monotonic() - started
    assert ended.code == 0, ended.error
    tally.processes += 1
    expected = result(out)
    for _ in range(runs):
        shutil.rmtree(out, ignore_errors=True)
        tally.runs += 1
        for _ in range(draws.choice((1, 1, 2))):
            number, delay = draws.choice(_SIGNALS), draws.uniform(0, 1.05 * seconds)
            ended = _killed(command, images, out, temporary, number, delay)
            tally.processes += 1
            _judge(tally, ended, number, delay)
        ended = run(command.line(images, out), environment(temporary))
        tally.processes += 1
        if ended.code is None:
            tally.fault("hangs", "the resumed run")
        elif ended.has_traceback:
            tally.fault("tracebacks", f"resumed: {ended.error[-1500:]}")
        elif ended.code != 0:
            tally.fault("lost", f"resumed: {ended.error}")
        elif result(out) != expected:
            found = result(out)
            names = [n for n in expected | found if expected.get(n) != found.get(n)]
            tally.fault("not_identical", f"{', '.join(names)}")
        tally.left_behind("resumed run", leftovers(out))
    return tally


def _killed(
    command: Command, images: Path, out: Path, temporary: Path, number: int, delay: float
) -> Ended:
    process = subprocess.Popen(
        command.line(images, out),
        env=environment(temporary),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts this in the background ignores interrupts, and so would the process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        _, error = process.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        try:
            _, error = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return Ended(None, "")
    return Ended(process.returncode, error)


def _judge(tally: Tally, ended: Ended, number: int, delay: float) -> None:
    what = f"{signal.Signals(number).name} after {delay:.2f} s"
    if ended.code is None:
        tally.fault("hangs", what)
    elif ended.has_traceback and "site-packages/site" not in ended.error:
        # Before the first line of mixmix, Python itself reports an interrupt.
        if "mixmix" in ended.error:
            tally.fault("tracebacks", f"{what}: {ended.error[-1500:]}")
    elif ended.code not in (0, -number, _CODES.get(number)):
        tally.fault("tracebacks", f"{what}: exit code {ended.code}: {ended.error[-500:]}")


if __name__ == "__main__":
    sys.exit(run_all(kills, tuple(COMMANDS), question=QUESTION, description=__doc__, runs=198))
