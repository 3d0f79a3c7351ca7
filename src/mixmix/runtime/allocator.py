"""Keep freed memory in the process instead of handing it back to the operating system.

An iteration on the CPU allocates and frees the same large activations every time. glibc gives each
of them its own mapping, so that every iteration pays for page faults on all of them again: about a
quarter of the time of a convolutional network, and half of one with depthwise convolutions.

Results do not depend on it. Outside Linux with glibc, and where the environment already sets one of
the three parameters (``MALLOC_TRIM_THRESHOLD_``, ``GLIBC_TUNABLES`` ...), nothing is done.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

__all__ = ["keep_freed_memory", "keeping_freed_memory"]

# Parameter numbers of mallopt(3), from <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}
# glibc's own, from malloc/malloc.c: DEFAULT_MMAP_MAX and so on.
_DEFAULT = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 128 * 1024, _TOP_PAD: 128 * 1024}
_PARAMETERS = ("trim_threshold", "top_pad", "mmap_max")

_lock = Lock()
# How many calls need it now; one that is never left stands for the whole process.
_users = 0


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse freed blocks, from now on and in the whole process.

    The process keeps the peak of its memory until it ends.

    Returns:
        Whether the setting was taken.
    """
    return _enter()


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """The same for the duration of a block or, as a decorator, of a function.

    At the end of the outermost one, the parameters have glibc's defaults again, and free memory
    goes back to the operating system. (One trace is left: glibc no longer adapts the size from
    which a block gets a mapping of its own, 128 KiB.)
    """
    taken = _enter()
    try:
        yield
    finally:
        if taken:
            _leave()


def _enter() -> bool:
    global _users
    with _lock:
        if _is_set_by_user() or (_users == 0 and not _set(_KEEP)):
            return False
        _users += 1
        return True


def _leave() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            _set(_DEFAULT)
            ctypes.CDLL(None).malloc_trim(0)


def _is_set_by_user() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return any(
        f"MALLOC_{name.upper()}_" in os.environ or f"glibc.malloc.{name}" in tunables
        for name in _PARAMETERS
    )


def _set(parameters: dict[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        mallopt, _ = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):  # another C library than glibc
        return False
    return all(mallopt(number, value) == 1 for number, value in parameters.items())
