"""Reuse of freed memory instead of returning it to the operating system.

An iteration on the CPU allocates and frees the same large activations every time. glibc maps each
of them anew, and the page faults take a quarter of the time of a convolutional network, and half of
the time with depthwise convolutions.

Results do not change. Without glibc, or if the environment sets one of the parameters
(``MALLOC_TRIM_THRESHOLD_``, ``GLIBC_TUNABLES`` ...), nothing happens.
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
# glibc's defaults, from malloc/malloc.c.
_DEFAULT = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 128 * 1024, _TOP_PAD: 128 * 1024}
_PARAMETERS = ("trim_threshold", "top_pad", "mmap_max")

_lock = Lock()
# Number of active calls; keep_freed_memory stays active.
_users = 0


def keep_freed_memory() -> bool:
    """Make glibc's allocator reuse freed blocks, from now on and in the whole process.

    The process keeps its peak memory until it ends.

    Returns:
        Whether it is in effect.
    """
    global _users
    with _lock:
        if _is_set_by_user() or (_users == 0 and not _set(_KEEP)):
            return False
        _users += 1
        return True


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """``keep_freed_memory`` within a context or decorated function.

    At the end of the outermost one, glibc's defaults are restored and free memory is returned,
    except that glibc's mapping threshold of 128 KiB is no longer adapted.
    """
    global _users
    is_kept = keep_freed_memory()
    try:
        yield
    finally:
        if is_kept:
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
