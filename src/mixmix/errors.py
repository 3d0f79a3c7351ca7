"""The exceptions mixmix raises for things the caller can mend."""

from __future__ import annotations

__all__ = ["CaptureError", "DataError", "ExportError", "InputError", "RankError", "first_line"]


class InputError(ValueError):
    """An argument or a file is not what was expected; the message says what to do."""


class DataError(InputError):
    """A data set or one of its shards is missing, truncated or corrupt."""


class CaptureError(InputError):
    """A network could not be captured as a graph."""


class ExportError(RuntimeError):
    """An exported model does not agree with the model that it was made from."""


class RankError(RuntimeError):
    """Another process of a distributed run stopped, so that this one cannot go on."""


def first_line(error: BaseException) -> str:
    """What an error says, without its further lines; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
