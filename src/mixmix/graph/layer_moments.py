"""Second moments of a layer's inputs and targets, for least squares, OBS and Wanda."""

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
    """Moments of a layer's inputs ``x`` and targets ``t``, means over output positions.

    The input at a position has ``d`` values in the order of ``masks.as_rows``, for each of the
    ``G`` groups of a convolution (1 for other layers).

    Attributes:
        gram: (G, d, d) mean of ``x x^T``.
        cross: (G, out / G, d) mean of ``t x^T``; empty without targets.
        input_mean: (G, d) mean of ``x``.
        target_mean: (G, out / G) mean of ``t``.
        target_variance: (G, out / G) variance of ``t``.
        num_positions: number of positions.
    """

    gram: Tensor
    cross: Tensor
    input_mean: Tensor
    target_mean: Tensor
    target_variance: Tensor
    num_positions: int

    def centered(self) -> LayerMoments:
        """The moments of ``x`` and ``t`` minus their means."""
        inputs, targets = self.input_mean, self.target_mean
        return LayerMoments(
            self.gram - inputs[:, :, None] * inputs[:, None, :],
            self.cross - targets[:, :, None] * inputs[:, None, :],
            torch.zeros_like(inputs),
            torch.zeros_like(targets),
            self.target_variance,
            self.num_positions,
        )


def grouped_rows(layer: Layer, weight: Tensor) -> Tensor:
    """A layer's weights (out, in / G, ...), or their mask, as (G, out / G, d)."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    rows: Tensor = as_rows(weight.detach()).unflatten(0, (groups, -1))
    return rows


def from_grouped_rows(layer: Layer, rows: Tensor) -> Tensor:
    """Inverse of ``grouped_rows``."""
    return from_rows(rows.flatten(0, 1), layer.weight.shape)


def layer_columns(layer: Layer, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """A layer's inputs for each image and output position: (G, N, L, d).

    Args:
        layer: a convolution or linear layer.
        x: (N, in, H, W), or (N, ..., in).
        positions: (L,) indices of the output's pixels, row by row; None for all.
    """
    if isinstance(layer, nn.Linear):
        x = x.reshape(len(x), -1, x.shape[-1])
        return (x if positions is None else x[:, positions])[None]
    rows, columns = _output_size(layer, x)
    if positions is None:
        positions = torch.arange(rows * columns)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    top, left = positions // columns * layer.stride[0], positions % columns * layer.stride[1]
    down, right = (
        torch.arange(size) * step
        for size, step in zip(layer.kernel_size, layer.dilation, strict=True)
    )
    # Pixels of each position's receptive field (L, kernel), channels-last.
    seen = (top[:, None, None] + down[:, None]) * x.shape[3] + left[:, None, None] + right
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
    found = pixels.index_select(1, seen.flatten().to(x.device))
    found = found.view(len(x), len(positions), -1, layer.groups, x.shape[1] // layer.groups)
    by_group: Tensor = found.permute(3, 0, 1, 2, 4).flatten(3)
    return by_group


def _output_size(layer: nn.Conv2d, x: Tensor) -> tuple[int, int]:
    """Height and width of a convolution's output."""
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


def _num_positions(layer: Layer, x: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        return math.prod(_output_size(layer, x))
    return math.prod(x.shape[1:-1])


def _targets(layer: Layer, outputs: Tensor, positions: Tensor | None) -> Tensor:
    """A layer's outputs for each image and position: (G, N, L, out / G)."""
    if isinstance(layer, nn.Linear):
        outputs = outputs.reshape(len(outputs), -1, 1, outputs.shape[-1])
    else:
        outputs = outputs.permute(0, 2, 3, 1).flatten(1, 2)
        outputs = outputs.unflatten(2, (layer.groups, -1))
    if positions is not None:
        outputs = outputs.index_select(1, positions.to(outputs.device))
    return outputs.permute(2, 0, 1, 3)


@torch.no_grad()
def measure_moments(
    layer: Layer,
    calls: Iterable[tuple[Tensor, Tensor | None]],
    *,
    positions: int | None,
    generator: torch.Generator,
) -> LayerMoments:
    """Moments over all images, and over some positions of each.

    Args:
        layer: a convolution or linear layer.
        calls: batches of inputs (n, in, ...), and of targets (n, out, ...) or None.
        positions: maximum per image, drawn at random; None for all.
        generator: CPU generator for them.
    """
    sums: list[Tensor] = []
    count = 0
    for x, targets in calls:
        length = _num_positions(layer, x)
        chosen = None
        if positions is not None and positions < length:
            chosen = torch.randperm(length, generator=generator)[:positions]
        # (G, positions of all images, values)
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
    assert count, "there is at least one image"
    gram, cross, input_mean, target_mean, square = (total / count for total in sums)
    variance = (square - target_mean.square()).clamp_min(0)
    return LayerMoments(gram, cross, input_mean, target_mean, variance, count)


@contextmanager
def captured_calls(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Context that appends the input and output of every call of a module to a list."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((inputs[0].detach(), output.detach()))

    handle = module.register_forward_hook(keep)
    try:
        yield calls
    finally:
        handle.remove()
