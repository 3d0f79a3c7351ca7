"""Tracers and exporters of PyTorch, without what they print."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from threading import RLock

__all__ = ["quiet"]

# Output belongs to the whole process: were two threads to redirect it at a time, the one that ends
# last would restore what the other had redirected it to.
_lock = RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress, hints, warnings and dumps of graphs from the terminal; errors are raised.

    For the whole process, as long as the block runs: keep it around a single call of PyTorch.
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
