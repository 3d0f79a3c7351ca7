"""The field's short names of bits, such as ``W4A8``."""

from __future__ import annotations

import re

from mixmix.errors import InputError

__all__ = ["parse_bits"]


def parse_bits(bits: str) -> tuple[int, int]:
    """Bits of weights and of activations of a setting such as ``W4A8``.

    Raises:
        InputError: unless it looks like that.
    """
    match = re.fullmatch(r"[Ww]([2-8])[Aa]([2-8])", bits)
    if match is None:
        raise InputError(
            f"bits must look like W4A8 with 2 to 8 bits each, got {bits!r}; 32-bit floats "
            "are what the model has already"
        )
    return int(match[1]), int(match[2])
