"""Progress of long calls: in terminals and notebooks a bar, in logs a line every 10%."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mixmix.runtime.distributed import is_main

__all__ = ["Progress", "showing"]

# Called with (a description, fraction done in [0, 1]).
Progress = Callable[[str, float], None]

# Calls that end within these seconds write nothing into logs.
_QUIET_SECONDS = 5.0
_LINES = 10
_is_shown: ContextVar[bool] = ContextVar("mixmix_progress_is_shown", default=False)


@contextmanager
def showing(title: str, on_progress: Progress | None = None) -> Iterator[Progress]:
    """The callback of a caller, or else one that shows progress on standard error.

    Calls within a call that shows its progress, and processes but the main one, show nothing.

    Args:
        title: shown first.
        on_progress: the caller's; None shows it.
    """
    if on_progress is not None:
        yield on_progress
        return
    if _is_shown.get() or not is_main():
        yield lambda what, fraction: None
        return
    token = _is_shown.set(True)
    try:
        with _display(title) as advance:
            yield advance
    finally:
        _is_shown.reset(token)


@contextmanager
def _display(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield _lines(title)
        return
    # The spinner and the time move during long steps, too.
    columns = (SpinnerColumn(), *Bar.get_default_columns(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda what, fraction: bar.update(task, description=what, completed=fraction)


def _lines(title: str) -> Progress:
    """A callback that writes a line whenever another tenth is done."""
    started, written = time.monotonic(), [0]

    def advance(what: str, fraction: float) -> None:
        tenths, seconds = int(fraction * _LINES + 1e-9), time.monotonic() - started
        if seconds < _QUIET_SECONDS or tenths == written[0]:
            return
        # Of several steps, each begins at 0.
        written[0] = tenths
        print(f"{what or title}: {tenths * 100 // _LINES}% ({seconds:.0f} s)", file=sys.stderr)

    return advance
