"""Standard streams that are closed, full, or read no further."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

__all__ = ["open_closed_streams", "silence_full_streams", "writes_of_progress"]


def open_closed_streams() -> None:
    """Connect closed standard streams to nothing, so that no file takes their numbers.

    Characters that the encoding of a terminal does not have are escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Patient:
    """A stream whose errors do not stop what reports on it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def writes_of_progress(stream: TextIO) -> TextIO:
    """Standard error, on which progress and notes must not end a run that goes well."""
    patient: Any = _Patient(stream)
    return patient  # type: ignore[no-any-return]


def silence_full_streams() -> None:
    """Drop what cannot be written; at exit, Python would report it with a traceback."""
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
            os.close(nowhere)
