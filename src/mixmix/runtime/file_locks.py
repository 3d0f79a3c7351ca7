"""Locks of files, which end with the process that holds them, however it ends."""

from __future__ import annotations

import os
import stat

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["lock", "remove_if_abandoned"]


def lock(descriptor: int) -> bool:
    """Lock an open file; False if another open file of this or another process has the lock.

    Where there are no locks (Windows, some network file systems), every lock succeeds.
    """
    try:
        return _lock(descriptor)
    except OSError:
        return True


def remove_if_abandoned(path: str) -> None:
    """Remove a regular file if no process holds its lock; without locks, it stays.

    Raises:
        OSError: if it cannot be opened or removed.
    """
    if fcntl is None or not stat.S_ISREG(os.lstat(path).st_mode):
        return
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        if _lock(descriptor):
            os.unlink(path)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
