"""Bit widths written as ``W4A8``."""

from __future__ import annotations

import re

from mixmix.errors import InputError

__all__ = ["FLOAT", "parse_bits"]

# Instead of bits, of layers that are not quantized.
FLOAT = "float"


def parse_bits(bits: str) -> tuple[int, int]:
    """Weight bits and activation bits of a setting such as ``W4A8``.

    Raises:
        InputError: if ``bits`` has another form, or a width outside 2 to 8.
    """
    match = re.fullmatch(r"[Ww]([2-8])[Aa]([2-8])", bits)
    if match is None:
        raise InputError(f"bits must look like W4A8 with 2 to 8 bits each, got {bits!r}")
    return int(match[1]), int(match[2])
