"""What happens at each step of each write, in a process of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["CRASHED", "at_step", "count_steps"]

CRASHED = 77
# Steps of a write. Only those below the folder of the run count.
_FUNCTIONS = (
    (tempfile, "mkstemp"),
    (os, "write"),
    (os, "fsync"),
    (os, "replace"),
    (os, "unlink"),
)


def at_step(step: int, act: Callable[[str, Callable[[], Any], bool], Any]) -> None:
    """Call ``act(name, go on, is half a write possible)`` in place of the step of this number."""
    _hook(step, act, [])


def count_steps(work: Callable[[], Any]) -> int:
    """Number of steps of a run."""
    seen: list[str] = []
    _hook(-1, lambda name, proceed, is_write: proceed(), seen)
    work()
    return len(seen)


def _hook(step: int, act: Callable[..., Any], seen: list[str]) -> None:
    for module, name in _FUNCTIONS:
        original = getattr(module, name)

        def hooked(
            *arguments: Any, _original: Any = original, _name: str = name, **options: Any
        ) -> Any:
            if not _is_of_run(_name, arguments, options):
                return _original(*arguments, **options)
            seen.append(_name)
            proceed = lambda: _original(*arguments, **options)  # noqa: E731
            if len(seen) - 1 != step:
                return proceed()
            half = None
            if _name == "write" and len(arguments[1]) > 1:
                half = lambda: _original(arguments[0], arguments[1][: len(arguments[1]) // 2])  # noqa: E731
            return act(_name, proceed, half)

        setattr(module, name, hooked)


def _is_of_run(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether a step is one of a write to the folder of the run, not of a cache or a pipe."""
    if name == "mkstemp":
        return str(options.get("suffix", "")) == ".mixmix-tmp"
    if name in ("replace", "unlink"):
        return "campaign-" in str(Path(arguments[0]).absolute())
    try:
        return "campaign-" in os.readlink(f"/proc/self/fd/{arguments[0]}")
    except OSError:
        return False
