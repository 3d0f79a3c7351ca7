"""Tensors of a graph whose rows are images, found with two batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["mark_images_", "two_batches"]

_TOLERANCE = 1e-3


def two_batches(example: Tensor) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W), and the same in another order with one more, (N + 1, C, H, W)."""
    return example, torch.cat([example.roll(-1, 0), example[:1]])


@torch.no_grad()
def mark_images_(graph_module: fx.GraphModule, batches: tuple[Tensor, Tensor]) -> list[Any]:
    """Set ``meta["ndim"]`` of each tensor, and ``meta["images"]``: whether row i is of image i.

    Tokens may come first as in (T, N, C), a batch may hold two views of each image, or windows of
    all images. The rows of such tensors cannot be stored, drawn or compared image by image.

    Args:
        graph_module: its nodes are changed.
        batches: from ``two_batches``.

    Returns:
        The outputs for both batches.
    """
    runs = [_Rows(graph_module, len(batch)) for batch in batches]
    outputs = [run.run(batch.clone()) for run, batch in zip(runs, batches, strict=True)]
    for node in graph_module.graph.nodes:
        rows, moved = (run.rows.get(node) for run in runs)
        # The second batch starts with the second image.
        node.meta["images"] = (
            rows is not None
            and moved is not None
            and float((rows.roll(-1, 0) - moved[:-1]).abs().max())
            <= _TOLERANCE * float(rows.abs().max())
        )
    return outputs


class _Rows(fx.Interpreter):
    """Runs a graph and keeps the mean and the root mean square of each row of each value.

    Values without a row for each image are left out.
    """

    def __init__(self, graph_module: fx.GraphModule, num_images: int) -> None:
        super().__init__(graph_module)
        self._num_images = num_images
        self.rows: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            n.meta["ndim"] = value.ndim
        if (
            isinstance(value, Tensor)
            and value.ndim > 0
            and len(value) == self._num_images
            and value.numel() > 0
            and not value.is_complex()
        ):
            rows = torch.nan_to_num(value.float(), 0.0, 1.0, -1.0).reshape(len(value), -1)
            self.rows[n] = torch.stack([rows.mean(1), rows.square().mean(1).sqrt()], 1)
        return value
