"""Loops over the values of tensors, compiled by numba where it can be imported.

What is compiled releases the interpreter's lock and runs on the calling thread alone. Whoever calls
it keeps a plain version for other devices and types, and for installations without numba (which
has no release for the newest Python for some months).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

numba: Any
try:
    import numba
except ImportError:
    numba = None

__all__ = ["Floats", "compiled", "flat_view", "has_compiler", "is_compilable", "row_view"]

Floats = NDArray[np.float32]
_Function = TypeVar("_Function", bound=Callable[..., Any])


def has_compiler() -> bool:
    """Whether loops are compiled; as plain Python they would take for ever."""
    return numba is not None


def is_compilable(*tensors: Tensor) -> bool:
    """Whether compiled loops serve these tensors: float32, in the CPU's memory."""
    return has_compiler() and all(
        tensor.dtype is torch.float32 and tensor.device.type == "cpu" for tensor in tensors
    )


def compiled(
    signature: str | None = None, *, any_order: bool = False
) -> Callable[[_Function], _Function]:
    """Compile a function at its first call, and keep what is compiled for later processes.

    Args:
        signature: numba's, for a function that other compiled functions call: it is then compiled,
            or loaded, right here. Else they would run the copy of it that was optimized with them
            in one process and the function itself in another, and sums taken in lanes would differ
            in the last bit.
        any_order: lets sums be taken in lanes.
    """

    def compile_(function: _Function) -> _Function:
        if not has_compiler():
            return function
        flags = {"reassoc", "contract", "nnan", "nsz"} if any_order else False
        options = {"nogil": True, "error_model": "numpy", "fastmath": flags}
        arguments = () if signature is None else (signature,)
        try:
            return cast("_Function", numba.njit(*arguments, cache=True, **options)(function))
        except RuntimeError:  # no folder can be written that would keep what is compiled
            return cast("_Function", numba.njit(*arguments, **options)(function))

    return compile_


def flat_view(tensor: Tensor) -> Floats:
    """A dense tensor's values (numel,) in the order of memory; shares its memory."""
    return cast("Floats", tensor.detach().as_strided((tensor.numel(),), (1,)).numpy())


def row_view(tensor: Tensor) -> Floats:
    """A dense tensor (N, ...) as rows (N, numel / N) in the order of memory; shares its memory."""
    length = tensor.numel() // tensor.shape[0]
    view = tensor.detach().as_strided((tensor.shape[0], length), (length, 1))
    return cast("Floats", view.numpy())
