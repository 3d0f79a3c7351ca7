"""A small part of each campaign, in a process of its own, since campaigns fork."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, tempfile
from pathlib import Path
from campaigns.{module} import {module}
with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
    tally = {module}("{scenario}", {runs}, 0, Path(folder))
assert tally.runs == {runs}, tally
sys.exit(tally.faults)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="campaigns fork")
@pytest.mark.parametrize(
    ("module", "scenario", "runs"),
    [
        ("crash_points", "synthesize", 3),
        ("crash_points", "distill", 3),
        ("disk_full", "save", 3),
        ("kills", "synthesize", 1),
        ("memory", "save", 3),
        ("two_processes", "prune", 3),
    ],
)
def test_no_fault(module: str, scenario: str, runs: int) -> None:
    _run(PROGRAM.format(module=module, scenario=scenario, runs=runs))


NETWORK = """
import sys, tempfile
from pathlib import Path
from campaigns.networks import run_apart
with tempfile.TemporaryDirectory() as folder:
    steps = run_apart("timm:test_resnet", 0, Path(folder))["steps"]
assert len(steps) == 7, steps
sys.exit(any(step["outcome"] != "ok" for step in steps))
"""


def test_a_network_from_elsewhere() -> None:
    pytest.importorskip("timm")
    _run(NETWORK)


def _run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr + done.stdout
