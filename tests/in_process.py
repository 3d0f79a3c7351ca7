"""Commands of the command line, run in the process of the tests."""

from __future__ import annotations

import sys

from mixmix.cli.main import run


def mixmix(*arguments: str) -> int:
    """Run a command in this process and return its exit code."""
    before = sys.argv
    sys.argv = ["mixmix", *arguments]
    try:
        run()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0
