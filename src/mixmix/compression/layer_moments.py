"""Second moments of what enters a layer: what least squares, OBS and Wanda are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.compression.pruning.sparsity import as_rows, from_rows

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

    def centred(self) -> LayerMoments:
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


def layer_columns(layer: Layer, x: Tensor) -> Tensor:
    """What enters a layer, for each image and place: (N, G, d, L)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2)[:, None]
    kernel = (layer.kernel_size[0], layer.kernel_size[1])
    x = F.pad(x, layer._reversed_padding_repeated_twice)
    columns = F.unfold(x, kernel, dilation=layer.dilation, stride=layer.stride)
    places = kernel[0] * kernel[1]
    columns = columns.unflatten(1, (layer.groups, -1, places))
    by_place: Tensor = columns.transpose(2, 3).flatten(2, 3)
    return by_place


def _targets(layer: Layer, outputs: Tensor) -> Tensor:
    """What a layer gives, for each image and place: (N, G, out / G, L)."""
    if isinstance(layer, nn.Linear):
        return outputs.reshape(len(outputs), -1, outputs.shape[-1]).transpose(1, 2)[:, None]
    by_group: Tensor = outputs.flatten(2).unflatten(1, (layer.groups, -1))
    return by_group


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
        columns = layer_columns(layer, x)
        length = columns.shape[3]
        parts = [columns] if targets is None else [columns, _targets(layer, targets)]
        if places is not None and places < length:
            chosen = torch.randperm(length, generator=generator)[:places].to(x.device)
            parts = [part[..., chosen] for part in parts]
        # (G, rows, n * L)
        flat = [part.movedim(0, 2).flatten(2) for part in parts]
        inputs, outputs = flat[0], flat[-1] if len(flat) > 1 else flat[0][:, :0]
        found = (
            inputs @ inputs.transpose(1, 2),
            outputs @ inputs.transpose(1, 2),
            inputs.sum(2),
            outputs.sum(2),
            outputs.square().sum(2),
        )
        sums = [old + new for old, new in zip(sums, found, strict=True)] if sums else list(found)
        count += inputs.shape[2]
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
