"""Copies of networks that have been run with gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["detached_copy", "tensors_in"]

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def detached_copy(model: Module) -> Module:
    """A deep copy of a network, which may store tensors with a gradient history.

    PyTorch cannot copy these: attention maps that a module keeps, or weights computed by hooks.
    """
    tensors = (tensor for module in model.modules() for tensor in tensors_in(vars(module)))
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in tensors if not t.is_leaf}
    return copy.deepcopy(model, memo)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(each)
