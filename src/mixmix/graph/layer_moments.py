"""Second moments of what enters a layer: what least squares, OBS and Wanda are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.graph.masks import as_rows, from_rows

__all__ = [
    "LayerMoments",
    "captured_calls",
    "from_grouped_rows",
    "grouped_rows",
    "layer_columns",
    "measure_moments",
]

Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class LayerMoments:
    """Means over places of products of a layer's inputs, and of those with its targets.

    The inputs of a place are a column of ``d`` values in the order of ``sparsity.as_rows``, for
    each of the ``G`` groups of a convolution (1 for other layers).

    Attributes:
        gram: (G, d, d) mean of ``x x^T``.
        cross: (G, out / G, d) mean of ``t x^T``; empty without targets.
        input_mean: (G, d) mean of ``x``.
        target_mean: (G, out / G) mean of ``t``.
        target_variance: (G, out / G) of ``t``.
        num_places: that they are means over.
    """

    gram: Tensor
    cross: Tensor
    input_mean: Tensor
    target_mean: Tensor
    target_variance: Tensor
    num_places: int

    def centered(self) -> LayerMoments:
        """Those of ``x`` and ``t`` less their means."""
        inputs, targets = self.input_mean, self.target_mean
        return LayerMoments(
            self.gram - inputs[:, :, None] * inputs[:, None, :],
            self.cross - targets[:, :, None] * inputs[:, None, :],
            torch.zeros_like(inputs),
            torch.zeros_like(targets),
            self.target_variance,
            self.num_places,
        )


def grouped_rows(layer: Layer, weight: Tensor) -> Tensor:
    """A layer's weights (out, in / G, ...), or their mask, as (G, out / G, d)."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    rows: Tensor = as_rows(weight.detach()).unflatten(0, (groups, -1))
    return rows


def from_grouped_rows(layer: Layer, rows: Tensor) -> Tensor:
    """Weights (out, in / G, ...) that ``grouped_rows`` gave these rows of."""
    return from_rows(rows.flatten(0, 1), layer.weight.shape)


def layer_columns(layer: Layer, x: Tensor, places: Tensor | None = None) -> Tensor:
    """What enters a layer for each image and place of its output: (G, N, L, d).

    Args:
        layer: a convolution or linear layer.
        x: (N, in, H, W), or (N, ..., in).
        places: (L,) numbers of the places, of the output's pixels row by row; None takes all.
    """
    if isinstance(layer, nn.Linear):
        x = x.reshape(len(x), -1, x.shape[-1])
        return (x if places is None else x[:, places])[None]
    rows, columns = _output_size(layer, x)
    if places is None:
        places = torch.arange(rows * columns)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    top, left = places // columns * layer.stride[0], places % columns * layer.stride[1]
    down, right = (
        torch.arange(size) * step
        for size, step in zip(layer.kernel_size, layer.dilation, strict=True)
    )
    # Pixels that each place sees (L, kernel); the channels of one lie side by side in memory.
    seen = (top[:, None, None] + down[:, None]) * x.shape[3] + left[:, None, None] + right
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
    found = pixels.index_select(1, seen.flatten().to(x.device))
    found = found.view(len(x), len(places), -1, layer.groups, x.shape[1] // layer.groups)
    by_group: Tensor = found.permute(3, 0, 1, 2, 4).flatten(3)
    return by_group


def _output_size(layer: nn.Conv2d, x: Tensor) -> tuple[int, int]:
    """Height and width of what a convolution gives."""
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    height, width = (
        (size - dilation * (kernel - 1) - 1) // stride + 1
        for size, dilation, kernel, stride in zip(
            (x.shape[2] + top + bottom, x.shape[3] + left + right),
            layer.dilation,
            layer.kernel_size,
            layer.stride,
            strict=True,
        )
    )
    return height, width


def _num_places(layer: Layer, x: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        return math.prod(_output_size(layer, x))
    return math.prod(x.shape[1:-1])


def _targets(layer: Layer, outputs: Tensor, places: Tensor | None) -> Tensor:
    """What a layer gives for each image and place: (G, N, L, out / G)."""
    if isinstance(layer, nn.Linear):
        outputs = outputs.reshape(len(outputs), -1, 1, outputs.shape[-1])
    else:
        outputs = outputs.permute(0, 2, 3, 1).flatten(1, 2)
        outputs = outputs.unflatten(2, (layer.groups, -1))
    if places is not None:
        outputs = outputs.index_select(1, places.to(outputs.device))
    return outputs.permute(2, 0, 1, 3)


@torch.no_grad()
def measure_moments(
    layer: Layer,
    calls: Iterable[tuple[Tensor, Tensor | None]],
    *,
    places: int | None,
    generator: torch.Generator,
) -> LayerMoments:
    """Moments over all images, and over some places of each.

    Args:
        layer: a convolution or linear layer.
        calls: what enters the layer (n, in, ...), and the targets (n, out, ...) or None.
        places: most places of an image, which are drawn at random; None takes all.
        generator: CPU generator of those.
    """
    sums: list[Tensor] = []
    count = 0
    for x, targets in calls:
        length = _num_places(layer, x)
        chosen = None
        if places is not None and places < length:
            chosen = torch.randperm(length, generator=generator)[:places]
        # (G, places of all images, values)
        inputs = layer_columns(layer, x, chosen).flatten(1, 2)
        outputs = inputs[:, :, :0]
        if targets is not None:
            outputs = _targets(layer, targets, chosen).flatten(1, 2)
        transposed = inputs.transpose(1, 2)
        found = (
            transposed @ inputs,
            outputs.transpose(1, 2) @ inputs,
            inputs.sum(1),
            outputs.sum(1),
            outputs.square().sum(1),
        )
        sums = [old + new for old, new in zip(sums, found, strict=True)] if sums else list(found)
        count += inputs.shape[1]
    assert count, "there is an image at least"
    gram, cross, input_mean, target_mean, square = (total / count for total in sums)
    variance = (square - target_mean.square()).clamp_min(0)
    return LayerMoments(gram, cross, input_mean, target_mean, variance, count)


@contextmanager
def captured_calls(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Within this, what enters and what leaves a module at every call is appended to a list."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((inputs[0].detach(), output.detach()))

    handle = module.register_forward_hook(keep)
    try:
        yield calls
    finally:
        handle.remove()
