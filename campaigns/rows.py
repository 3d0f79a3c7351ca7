"""Rows of campaigns: what happened in many runs, as a record like those of ``benchmarks/``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixmix.report.record import benchmark_record
from mixmix.runtime.storage import write_json

__all__ = ["FAULTS", "Tally", "arguments", "finish", "run_all"]

FAULTS = ("executions", "silent_wrong", "tracebacks", "hangs", "lost", "not_identical")


@dataclass
class Tally:
    """One row: what happened in the runs of a campaign.

    Attributes:
        campaign: what was done to the runs, such as ``kills of synthesize``.
        seed: seed of the random choices.
        runs: runs that something was done to.
        processes: processes that were started for them, references and resumed runs included.
        executions: runs in which code from an input ran.
        silent_wrong: runs that ended without an error and with a wrong result.
        tracebacks: runs that ended with a traceback or a crash instead of one line.
        hangs: runs that did not end within their time.
        lost: runs that lost finished work, or left a temporary file behind.
        not_identical: runs whose resumed result differs from the undisturbed one.
        examples: the first fault of each kind, in words.
    """

    campaign: str
    seed: int = 0
    runs: int = 0
    processes: int = 0
    executions: int = 0
    silent_wrong: int = 0
    tracebacks: int = 0
    hangs: int = 0
    lost: int = 0
    not_identical: int = 0
    examples: dict[str, str] = field(default_factory=dict)

    def left_behind(self, what: str, names: Sequence[str]) -> None:
        """Count a loss if temporary files remain."""
        if names:
            self.fault("lost", f"{what} left behind: {', '.join(names)}")

    def fault(self, kind: str, what: str) -> None:
        """Count a fault of a kind in ``FAULTS``."""
        assert kind in FAULTS, kind
        setattr(self, kind, getattr(self, kind) + 1)
        self.examples.setdefault(kind, " ".join(what.split())[:500])
        print(f"{self.campaign}: {kind}: {what}", file=sys.stderr)

    @property
    def faults(self) -> int:
        """Number of faults of all kinds."""
        return sum(getattr(self, kind) for kind in FAULTS)


def arguments(
    description: str | None, *, runs: int, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """``--runs``, ``--seed`` and ``--out`` of a campaign."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=runs, help="number of runs (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all choices (%(default)s)")
    parser.add_argument("--out", type=Path, help="file of the record; its other rows are kept")
    parser.add_argument("--only", help="one of the commands or scenarios")
    return parser.parse_args(argv)


def run_all(
    campaign: Callable[[str, Any, int, Path], Tally],
    names: Sequence[str],
    *,
    question: str,
    description: str | None,
    runs: int,
) -> int:
    """Run a campaign on several commands or scenarios, as the command line asks for.

    Args:
        campaign: gets a name, its share of the runs (None for all there are), the seed, and a
            folder of its own beside those of the others.
        names: of commands or scenarios.
        question: that the record answers.
        description: docstring of the campaign.
        runs: in all, by default; 0 for all there are.

    Returns:
        The exit status; see ``finish``.
    """
    given = arguments(description, runs=runs)
    share = -(-given.runs // len(names)) or (None if runs == 0 else 0)
    chosen = [name for name in names if given.only in (None, name)]
    tallies, code = [], 0
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        for name in chosen:
            tallies.append(campaign(name, share, given.seed, Path(folder, name)))
            code = finish(question, tallies, given.out)
    return code


def finish(question: str, tallies: Sequence[Tally], out: Path | None) -> int:
    """Print the last row and write the record; the exit status is 1 if there was a fault."""
    names = ("campaign", "runs", "processes", *FAULTS)
    print("  ".join(f"{name} {getattr(tallies[-1], name)}" for name in names), flush=True)
    if out is not None:
        known = json.loads(out.read_text())["rows"] if out.exists() else []
        rows = {row["campaign"]: row for row in known} | {
            tally.campaign: vars(tally) for tally in tallies
        }
        write_json(
            out, benchmark_record(question, f"python {shlex.join(sys.argv)}", [*rows.values()])
        )
    return int(any(tally.faults for tally in tallies))
