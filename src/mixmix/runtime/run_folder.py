"""Folders that belong to one run: claimed before its first file, locked while it works."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mixmix.errors import DataError, InputError
from mixmix.runtime.file_locks import lock
from mixmix.runtime.storage import (
    read_json,
    remove_abandoned,
    sha256_of_json,
    write_record,
)

__all__ = ["check_file_of_run", "check_same_run", "claim_folder", "locked_folder"]

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_LONGEST = 60  # characters of a value in a message


@contextmanager
def claim_folder(path: Path, run: Mapping[str, Any]) -> Iterator[str]:
    """Context in which a folder belongs to one run, and no other process works in it.

    Args:
        path: file in the folder that describes the run; it is written if it does not exist.
        run: everything that the results depend on, in plain JSON types.

    Yields:
        An identifier of the run, for the other files of the folder.

    Raises:
        InputError: if the folder belongs to another run, is in use, or cannot be written.
        DataError: if the file cannot be read.
    """
    _check_claim(path, run)
    with locked_folder(path):
        if not _check_claim(path, run):
            write_record(path, run)
        yield sha256_of_json(run)


def _check_claim(path: Path, run: Mapping[str, Any]) -> bool:
    if not os.path.lexists(path):
        return False
    check_same_run(read_json(path), run, f"{path.parent} contains a {path.stem} run")
    return True


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Context in which no other process works in a folder; files of killed ones are removed.

    A lock ends with its process. Processes that only read a finished run need none, so that it may
    be in a folder that cannot be written.

    Args:
        path: file in the folder that describes its run.

    Raises:
        InputError: if another process works in it, or it cannot be written.
    """
    name = path.with_name(f".{path.name}.lock")
    descriptor = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _take(name)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE or not path.exists():
                raise
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; choose another folder"
        ) from error
    try:
        if descriptor is not None:
            remove_abandoned(path.parent)
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                os.unlink(name)
            os.close(descriptor)


def _take(name: Path) -> int:
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(name, flags, 0o666)
        if not lock(descriptor):
            holder = os.read(descriptor, 100).decode(errors="replace").strip()
            os.close(descriptor)
            raise InputError(
                f"{holder or 'another process'} is working in {name.parent}; wait until it has "
                "ended, or choose another folder"
            )
        # Its last holder may have removed the file before it was locked here.
        if _is_at(descriptor, name):
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()}\n".encode())
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def check_same_run(before: Mapping[str, Any], now: Mapping[str, Any], claim: str) -> None:
    """Check that two runs are the same.

    Args:
        before: the run that a folder belongs to.
        now: the run that wants it.
        claim: how the message starts; the field that differs, and its values follow.

    Raises:
        InputError: if they differ.
    """
    difference = _first_difference(before, now)
    if difference is not None:
        names, old, new = difference
        raise InputError(
            f"{claim} {_described(names, old, new)}; choose another folder, or remove that one"
        )


def check_file_of_run(path: Path, metadata: Mapping[str, str], run: str) -> None:
    """Check that the metadata of a file name the run, by its identifier.

    Raises:
        DataError: if it is of another run, or of none.
    """
    if metadata.get("run") != run:
        raise DataError(
            f"{path} is not of the run that {path.parent} belongs to; choose another folder, or "
            "remove that file"
        )


class _Absent:
    """Takes the place of a field that there is not."""

    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()
_Difference = tuple[tuple[str, ...], Any, Any]


def _first_difference(old: Any, new: Any, names: tuple[str, ...] = ()) -> _Difference | None:
    """Names that lead to the first difference, and both values there."""
    old, new = _by_kind(old), _by_kind(new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            values = old.get(key, _ABSENT), new.get(key, _ABSENT)
            found = _first_difference(*values, (*names, str(key)))
            if found is not None:
                return found
        return None
    if _is_list(old) and _is_list(new):
        own = [_name_of(each) for each in old], [_name_of(each) for each in new]
        if any(own[0]) and own[0] != own[1]:
            return names, own[0], own[1]
        if len(old) == len(new):
            pairs = zip(old, new, own[1], strict=True)
            found = next(
                (d for a, b, name in pairs if (d := _first_difference(a, b, (name,) * bool(name)))),
                None,
            )
            if found is None:
                return None
            # Short lists are shown as they are.
            if not found[0] and _is_short(old) and _is_short(new):
                return names, old, new
            return (*names, *found[0]), *found[1:]
    # Numbers are equal, whatever their type; NaN is equal to itself.
    if old == new or (old != old and new != new):
        return None
    return names, old, new


def _by_kind(value: Any) -> Any:
    """A list of terms as a table of them."""
    is_terms = _is_list(value) and all(isinstance(e, Mapping) and "term" in e for e in value)
    if not (is_terms and value):
        return value
    return {str(each["term"]): each for each in value}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _name_of(value: Any) -> str:
    return str(value.get("name", "")) if isinstance(value, Mapping) else ""


def _is_short(value: Any) -> bool:
    return len(_text(value)) < _LONGEST // 2


def _described(names: tuple[str, ...], old: Any, new: Any) -> str:
    """Such as ``with another mean of vgg (0.5, now 0.4)``."""
    values = f"({_text(old)}, now {_text(new)})"
    owner, *fields = names
    if owner == "models":
        if not fields:
            return f"from other networks {values}"
        owner, *fields = fields
    if owner == "start":
        return f"from other images to start from {values}"
    if owner in ("settings", "method"):
        within = f"{'.'.join(fields)}: " if fields else ""
        return f"with other {owner} ({within}{values[1:]}"
    label = " of ".join([*reversed(fields), owner])
    word = "other" if label.partition(" ")[0].endswith("s") else "another"
    return f"with {word} {label} {values}"


def _text(value: Any) -> str:
    if _is_list(value):
        text = f"{', '.join(map(_text, value))}"
        text = text if value and isinstance(value[0], str) else f"[{text}]"
    else:
        text = repr(value) if not isinstance(value, str) else value
        if len(text) == 64 and all(c in "0123456789abcdef" for c in text):
            text = f"{text[:12]}..."  # a hash
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
