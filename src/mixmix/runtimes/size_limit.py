"""Sizes of values, checked before they are allocated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mixmix.errors import DataError

__all__ = ["MOST_ELEMENTS", "SizeLimit"]

# Of one value; no network for images needs more.
MOST_ELEMENTS = 2**28


class SizeLimit(TorchDispatchMode):
    """Context in which no operation makes a value of more than ``MOST_ELEMENTS``.

    Raises:
        DataError: before memory for it is allocated.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for each in tree_leaves(_without_values(func, args, kwargs)):
            if isinstance(each, Tensor) and each.numel() > MOST_ELEMENTS:
                raise DataError(
                    f"the network computes a value of the size {tuple(each.shape)}, which is more "
                    "than networks need"
                )
        return func(*args, **kwargs)


def _without_values(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation returns for tensors without values; None if it depends on values."""

    def empty(value: Any) -> Any:
        return value.to("meta") if isinstance(value, Tensor) else value

    others = {"device": torch.device("meta")} if "device" in kwargs else {}
    try:
        return func(*tree_map(empty, args), **(tree_map(empty, kwargs) | others))
    except Exception:
        return None
