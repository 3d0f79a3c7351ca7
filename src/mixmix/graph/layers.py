"""Names of layers given by callers."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from mixmix.errors import InputError

__all__ = ["check_layer_names"]


def check_layer_names(names: Collection[str], known: Collection[str]) -> None:
    """Check that a network has layers of these names.

    Raises:
        InputError: with the most similar known names.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
            raise InputError(
                f"no convolution or linear layer is called {name!r}; the nearest names are "
                f"{', '.join(map(repr, near)) or 'none'}"
            )
