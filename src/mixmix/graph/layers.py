"""Names of layers that a caller gives."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from mixmix.errors import InputError

__all__ = ["check_layer_names"]


def check_layer_names(names: Collection[str], known: Collection[str]) -> None:
    """Refuse names of layers that a network does not have.

    Raises:
        InputError: naming the nearest that it has.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
            raise InputError(
                f"no layer that can be quantized is called {name!r}; the nearest names are "
                f"{', '.join(map(repr, near)) or 'none'}"
            )
