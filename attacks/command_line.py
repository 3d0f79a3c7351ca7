"""Runs a command of mixmix in this process, and says how it ended."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        code: exit code; 1 for an exception that nobody caught.
        line: the last line on standard error, or of the traceback.
        traceback: an exception that nobody caught, or empty.
        has_control: whether it printed characters that a terminal obeys.
        sha256: of the weights, if it printed JSON with them.
    """

    code: int
    line: str
    traceback: str
    has_control: bool
    sha256: str = ""

    @property
    def is_good(self) -> bool:
        """Success, or exit code 2 with one line."""
        return self.code in (0, 2) and not self.traceback and not self.has_control


def call(arguments: list[str], folder: Path) -> Ending:
    """Run ``mixmix`` with these arguments in a folder."""
    from mixmix.cli.main import run

    out, err = io.StringIO(), io.StringIO()
    before, argv, show = Path.cwd(), sys.argv, warnings.showwarning
    code, trace = 0, ""
    os.environ["MIXMIX_TRACEBACK"] = "1"  # unexpected errors are faults, not lines
    os.chdir(folder)
    sys.argv = ["mixmix", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except Exception:
        code, trace = 1, traceback.format_exc()
    finally:
        os.chdir(before)
        sys.argv, warnings.showwarning = argv, show
    said = out.getvalue() + err.getvalue()
    errors = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
    if code == 2 and len(errors) != 1:
        trace = f"{len(errors)} lines of errors: {err.getvalue()[-500:]}"
    last = (trace or err.getvalue()).strip().splitlines()
    return Ending(
        code, last[-1] if last else "", trace, bool(_CONTROL.search(said)), _hash(out.getvalue())
    )


def _hash(text: str) -> str:
    try:
        return str(json.loads(text).get("sha256", ""))
    except (ValueError, AttributeError):
        return ""
