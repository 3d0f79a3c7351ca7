"""Fields of JSON documents in exported programs; every one must be known and of its type."""

from __future__ import annotations

import re
from typing import Any

from mixmix.errors import DataError

__all__ = ["fields", "integer", "name_of_tensor", "name_of_value", "option", "options", "text"]

_LONGEST = 1000
_TENSOR_NAME = re.compile(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*")


def fields(value: Any, *required: str, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object with these fields and no others.

    Raises:
        DataError: if it is none.
    """
    content = options(value, "an object")
    unknown = sorted(set(content) - {*required, *optional})
    missing = [name for name in required if name not in content]
    if unknown or missing:
        which = f"unknown field {unknown[0][:80]!r}" if unknown else f"no field {missing[0]!r}"
        raise DataError(f"an object with {which}")
    return content


def options(value: Any, what: str) -> dict[str, Any]:
    """An object with any fields."""
    if not isinstance(value, dict):
        raise DataError(f"{_shown(value)} in place of {what}")
    return value


def option(value: Any) -> tuple[str, Any]:
    """The kind and the value of an object with one field."""
    if not isinstance(value, dict) or len(value) != 1:
        raise DataError(f"{_shown(value)} in place of one value with its kind")
    return next(iter(value.items()))


def text(value: Any) -> str:
    """A text that is not too long."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise DataError(f"{_shown(value)} in place of a text")
    return value


def integer(value: Any, *, least: int = -(2**63)) -> int:
    """A whole number of 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise DataError(f"{_shown(value)} in place of a whole number")
    return value


def name_of_value(value: Any) -> str:
    """The name of a value of a graph: an identifier."""
    name = text(value)
    if not (name.isascii() and name.isidentifier()):
        raise DataError(f"the name {name[:80]!r}")
    return name


def name_of_tensor(value: Any) -> str:
    """The qualified name of a parameter or buffer, such as ``layers.0.weight``."""
    name = text(value)
    if _TENSOR_NAME.fullmatch(name) is None:
        raise DataError(f"the name {name[:80]!r}")
    return name


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
