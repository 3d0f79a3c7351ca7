"""Tensors of a graph that can be quantized: finite floats."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["is_float", "mark_floats"]


def mark_floats(graph_module: fx.GraphModule, example: Tensor) -> None:
    """Set ``meta["floats"]`` of each node: whether its output is a tensor of finite floats.

    Masks, indices and shapes are not, nor is padding with infinity, which only a maximum ignores.

    Args:
        graph_module: its nodes are changed.
        example: (N, C, H, W) normalized images.
    """
    with torch.no_grad():
        _Marker(graph_module).run(example)


def is_float(node: fx.Node) -> bool:
    """Whether a node returns finite floats; True for nodes that were inserted later."""
    return bool(node.meta.get("floats", True))


class _Marker(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        # Several tensors, such as the parts of a split, are marked where they are used.
        if not isinstance(value, (tuple, list)):
            n.meta["floats"] = (
                isinstance(value, Tensor)
                and value.dtype is torch.float32
                and bool(torch.isfinite(value).all())
            )
        return value
