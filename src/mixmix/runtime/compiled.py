"""Loops over the values of tensors, compiled by numba if it is installed.

Compiled functions release the GIL and run on the calling thread. Callers need another version for
other devices and types, and without numba, which supports a new Python release only months later.
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
    """Whether loops are compiled; otherwise, they are too slow to use."""
    return numba is not None


def is_compilable(*tensors: Tensor) -> bool:
    """Whether compiled loops can take these tensors: float32 on the CPU."""
    return has_compiler() and all(
        tensor.dtype is torch.float32 and tensor.device.type == "cpu" for tensor in tensors
    )


def compiled(
    signature: str | None = None, *, any_order: bool = False
) -> Callable[[_Function], _Function]:
    """Compile a function at its first call, and cache it on disk.

    Args:
        signature: numba's, for functions that other compiled functions call; compiles immediately.
            Otherwise callers inline the function in some processes and not in others, and
            vectorized sums differ in the last bit.
        any_order: allow vectorized sums.
    """

    def compile_(function: _Function) -> _Function:
        if not has_compiler():
            return function
        flags = {"reassoc", "contract", "nnan", "nsz"} if any_order else False
        options = {"nogil": True, "error_model": "numpy", "fastmath": flags}
        arguments = () if signature is None else (signature,)
        try:
            return cast("_Function", numba.njit(*arguments, cache=True, **options)(function))
        except RuntimeError:  # the cache is not writable
            return cast("_Function", numba.njit(*arguments, **options)(function))

    return compile_


def flat_view(tensor: Tensor) -> Floats:
    """A dense tensor's values (numel,) in memory order; shares its memory."""
    return cast("Floats", tensor.detach().as_strided((tensor.numel(),), (1,)).numpy())


def row_view(tensor: Tensor) -> Floats:
    """A dense tensor (N, ...) as rows (N, numel / N) in memory order; shares its memory."""
    length = tensor.numel() // tensor.shape[0]
    view = tensor.detach().as_strided((tensor.shape[0], length), (length, 1))
    return cast("Floats", view.numpy())
