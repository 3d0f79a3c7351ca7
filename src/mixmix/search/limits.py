"""What a search has to meet."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mixmix._settings import Settings
from mixmix.errors import InputError

__all__ = ["Limits", "parse_size"]

_AIMS = ("size", "speed")
_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_SIZE = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*(?:([kKMG]i?)?[bB])?\s*")


@dataclass(frozen=True)
class Limits(Settings):
    """Limits on a file; give at least one.

    Attributes:
        max_loss: largest accuracy loss in points that the upper bound of the estimate may reach.
        max_size: largest size of the file, such as 500kB, 1.2MB or 90000B, or, up to 1 and without
            a unit, as a fraction of the float ONNX file: 0.2.
        aim: with ``max_loss``: ``size`` for the smallest file, ``speed`` for the fastest.

    Raises:
        InputError: if a value is out of range, or there is no limit.
    """

    max_loss: float | None = None
    max_size: str | None = None
    aim: str = "size"

    def __post_init__(self) -> None:
        if self.max_loss is None and self.max_size is None:
            raise InputError("no limit for the search; give max_loss, max_size or both")
        if self.max_loss is not None and not 0 < self.max_loss <= 100:
            raise InputError(
                f"max_loss must be above 0 and at most 100 points, got {self.max_loss}"
            )
        if self.aim not in _AIMS:
            raise InputError(f"aim must be size or speed, got {self.aim!r}")
        if self.max_size is not None:
            parse_size(self.max_size, 1)


def parse_size(text: str | float, float_bytes: int) -> int:
    """Bytes that a size such as ``500kB``, ``1.2MB``, or a fraction of ``float_bytes`` means.

    k, M and G are powers of 1,000; Ki, Mi and Gi of 1,024.

    >>> from mixmix.search import parse_size
    >>> parse_size("1.2MB", 0), parse_size("0.25", 1000)
    (1200000, 250)

    Raises:
        InputError: if it is neither.
    """
    match = _SIZE.fullmatch(str(text))
    if match is None or float(match[1]) == 0:
        raise InputError(
            f"a size must look like 500kB, 1.2MB or 90000B, or be a fraction of the float file "
            f"such as 0.2, got {text!r}"
        )
    number, has_unit = float(match[1]), str(text).strip()[-1] in "bB"
    if has_unit:
        prefix = match[2] or ""
        return int(number * _UNITS[prefix if len(prefix) == 2 else prefix.replace("K", "k")])
    if number > 1:
        raise InputError(
            f"a size without a unit is a fraction of the float file, up to 1; got {text}; write "
            f"{text}B for bytes, or {text}kB"
        )
    return int(number * float_bytes)
