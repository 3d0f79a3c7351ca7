"""The exceptions that mixmix raises for problems its callers can solve."""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "CaptureError",
    "DataError",
    "ExportError",
    "InputError",
    "MissingFieldsError",
    "MixmixWarning",
    "RankError",
    "first_line",
    "is_out_of_memory",
    "raise_if_out_of_memory",
    "translate_errors",
    "warn",
]


# From messages of PyTorch on CPU and GPU, oneDNN, C++, the linker, threads and ONNX Runtime, and of
# Python about extensions that find no memory.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "could not create a primitive",
    "out of memory",
    "std::bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "failed to map segment",
    "can't start new thread",
    "without exception set",
    "without setting an exception",
)


class InputError(ValueError):
    """An argument or a file is invalid; the message says what to change."""


class MissingFieldsError(InputError):
    """Fields of a network's spec are neither in its source nor given.

    Attributes:
        missing: their names.
    """

    def __init__(self, message: str, missing: tuple[str, ...]) -> None:
        super().__init__(message)
        self.missing = missing


class DataError(InputError):
    """A data set or a file is missing, truncated or corrupt."""


class CaptureError(InputError):
    """A network cannot be captured as a graph."""


class ExportError(RuntimeError):
    """An exported model does not agree with its original."""


class RankError(RuntimeError):
    """Another process of a distributed run has stopped, so this one cannot continue."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message (two if it ends in a colon), or the error's type."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    text = " ".join(text.split())
    if len(text) <= 200:
        return text
    sentences, end, _ = text[:200].rpartition(". ")
    return sentences if end else f"{text[:197]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library, or its cause, says that memory cannot be allocated."""
    return _out_of_memory(error) is not None


def raise_if_out_of_memory(error: BaseException) -> None:
    """Raise an error that says so again, before it is taken for a fault of a network."""
    found = _out_of_memory(error)
    if found is not None:
        raise found


def _out_of_memory(error: BaseException | None) -> BaseException | None:
    """The first error of a chain of causes that says that memory cannot be allocated."""
    while error is not None and not _says_out_of_memory(error):
        error = error.__cause__
    return error


def _says_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, Exception) and any(each in text for each in _OUT_OF_MEMORY)


class MixmixWarning(UserWarning):
    """Results may be wrong; the message says why, and what to change."""


def warn(message: str) -> None:
    """Issue a ``MixmixWarning``, of the line that called mixmix."""
    packages, frame = [], sys._getframe()
    while frame is not None:
        packages.append(frame.f_globals.get("__name__", "").partition(".")[0])
        frame = frame.f_back  # type: ignore[assignment]
    level = len(packages) - packages[::-1].index("mixmix")
    # Decorators call functions of mixmix from the modules that define them.
    while packages[level : level + 1] in (["contextlib"], ["torch"]):
        level += 1
    warnings.warn(message, MixmixWarning, stacklevel=level + 1)


@contextmanager
def translate_errors(
    message: str, advice: str = "", *, into: type[InputError] = InputError
) -> Iterator[None]:
    """Turn any error of other libraries into ``into("MESSAGE: ERROR; ADVICE")``.

    Errors of mixmix pass unchanged, and so do those of too little memory.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise_if_out_of_memory(error)
        text = f"{message}: {first_line(error)}"
        raise into(f"{text}; {advice}" if advice else text) from error
