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
    tally = {module}("{scenario}", 3, 0, Path(folder))
assert tally.runs == 3, tally
sys.exit(tally.faults)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="campaigns fork")
@pytest.mark.parametrize(
    ("module", "scenario"),
    [
        ("crash_points", "synthesize"),
        ("crash_points", "distill"),
        ("disk_full", "save"),
        ("two_processes", "prune"),
    ],
)
def test_no_fault(module: str, scenario: str) -> None:
    program = PROGRAM.format(module=module, scenario=scenario)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
