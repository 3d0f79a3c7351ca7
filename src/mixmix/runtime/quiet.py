"""Suppression of output from PyTorch's tracers and exporters."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from threading import RLock

__all__ = ["quiet"]

# Two threads that redirect output at the same time would restore each other's redirection.
_lock = RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context that suppresses printed output, logs below errors, and warnings.

    It affects the whole process: use it around a single call of PyTorch.
    """
    with _lock:
        previous = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(previous)
