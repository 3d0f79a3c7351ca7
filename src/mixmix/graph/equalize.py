"""Cross-layer equalization of the weight ranges of channels.

Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction, section
4.1. For an activation with ``f(s x) = s f(x)``, s > 0, dividing the output channels of one layer by
s and multiplying the input channels of the next by s does not change the function.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from mixmix.graph.calls import count_calls, module_of
from mixmix.graph.capture import check_outputs
from mixmix.graph.edit import replace_by_module
from mixmix.graph.layers import is_depthwise
from mixmix.graph.ops import bounds_of, is_homogeneous

__all__ = ["ChannelLimit", "equalize_layers", "equalizing_factors"]

_MAX_SWEEPS = 40
_TOLERANCE = 1e-3  # of the logarithm of a factor


class ChannelLimit(nn.Module):
    """``min(max(x, 0), limit)`` with a limit per channel: a ReLU6 with scaled channels.

    Buffers: ``limit`` (C, 1, 1), or (C,) behind a linear layer.
    """

    limit: Tensor

    def __init__(self, limit: Tensor) -> None:
        super().__init__()
        self.register_buffer("limit", limit)

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.relu(x), self.limit)


@dataclass(frozen=True)
class _Pair:
    """Two layers that share channels, and the clamps to [0, b] between them, with b."""

    first: fx.Node
    second: fx.Node
    limits: tuple[tuple[fx.Node, float], ...]


def equalizing_factors(first: Tensor, second: Tensor, *, groups: int = 1) -> Tensor:
    """Divisors of the output channels of the first layer (Nagel et al. 2019, eq. 11).

    Args:
        first: weights (C, ...) of the layer with output channels C.
        second: weights (out, C / groups, ...) of the layer with input channels C.
        groups: of the second layer.

    Returns:
        ``s = sqrt(r1 / r2)`` (C,) > 0, with the largest magnitudes r1 and r2 of a channel's weights
        in both layers, which this makes equal; 1 where either is zero.
    """
    made = first.flatten(1).abs().amax(1)
    taken = _by_input_channel(second, groups).abs().amax(1)
    nonzero = (made > 0) & (taken > 0)
    return torch.where(nonzero, (made / taken.clamp_min(1e-30)).sqrt(), torch.ones_like(made))


def _by_input_channel(weight: Tensor, groups: int) -> Tensor:
    """Weights (out, C / groups, ...) as rows (C, n), one per input channel."""
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return grouped.transpose(1, 2).reshape(groups * weight.shape[1], -1)


@torch.no_grad()
def equalize_layers(
    graph_module: fx.GraphModule, example: Tensor, *, depthwise_only: bool
) -> list[tuple[str, str]]:
    """Equalize the weights of pairs of consecutive layers, in place.

    Between the layers of a pair there are only positively homogeneous operations, without other
    consumers, and clamps to [0, b] such as ReLU6, whose b is divided by s per channel. SiLU, hard
    swish and the like separate layers.

    Args:
        graph_module: captured, BatchNorm folded.
        example: normalized images on which the outputs are checked.
        depthwise_only: equalize only pairs with a depthwise convolution.

    Returns:
        The names of the layers of each pair.

    Raises:
        CaptureError: if the outputs differ afterwards.
    """
    modules = dict(graph_module.named_modules())
    pairs = _find_pairs(graph_module, modules)
    if depthwise_only:
        pairs = [
            pair
            for pair in pairs
            if any(is_depthwise(module_of(node, modules)) for node in (pair.first, pair.second))
        ]
    if not pairs:
        return []
    before = graph_module(example)
    divisors = _equalize_weights(pairs, modules)
    for pair, divisor in zip(pairs, divisors, strict=True):
        for node, limit in pair.limits:
            like = module_of(pair.first, modules)
            _limit_channels(graph_module, node, limit / divisor, like=like)
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    hint = "turn it off with equalize=False"
    check_outputs(graph_module, example, before, step="equalizing layers", hint=hint)
    return [(str(pair.first.target), str(pair.second.target)) for pair in pairs]


def _equalize_weights(pairs: list[_Pair], modules: dict[str, nn.Module]) -> list[Tensor]:
    """Sweep over all pairs until their ranges are equal; returns the divisors (C,) of each pair."""
    layers = [(_layer(pair.first, modules), _layer(pair.second, modules)) for pair in pairs]
    divisors = [torch.ones_like(first.weight.flatten(1)[:, 0]) for first, _ in layers]
    for _ in range(_MAX_SWEEPS):
        furthest = 0.0
        for index, (first, second) in enumerate(layers):
            groups = second.groups if isinstance(second, nn.Conv2d) else 1
            factors = equalizing_factors(first.weight, second.weight, groups=groups)
            first.weight.div_(_with_axes_of(first.weight, factors))
            if first.bias is not None:
                first.bias.div_(factors)
            rows = factors.view(groups, 1, -1).expand(-1, len(second.weight) // groups, -1)
            second.weight.mul_(_with_axes_of(second.weight, rows.flatten(0, 1)))
            divisors[index] *= factors
            furthest = max(furthest, float(factors.log().abs().amax()))
        if furthest < _TOLERANCE:
            break
    return divisors


def _with_axes_of(weight: Tensor, values: Tensor) -> Tensor:
    """Values (out,) or (out, in) with as many dimensions as ``weight`` (out, in, ...)."""
    return values.view(*values.shape, *[1] * (weight.ndim - values.ndim))


def _layer(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Conv2d | nn.Linear:
    layer = module_of(node, modules)
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    return layer


def _find_pairs(graph_module: fx.GraphModule, modules: dict[str, nn.Module]) -> list[_Pair]:
    calls = count_calls(graph_module)
    # Layers may share a weight.
    owners = Counter(getattr(modules[name], "weight", None) for name in calls)

    def layer_alone(node: fx.Node) -> nn.Module | None:
        layer = module_of(node, modules)
        movable = type(layer) is nn.Linear or (
            type(layer) is nn.Conv2d and layer.padding_mode == "zeros"
        )
        if not movable or calls[str(node.target)] > 1:
            return None
        return layer if owners[_layer(node, modules).weight] == 1 else None

    pairs = []
    for first in graph_module.graph.nodes:
        made = layer_alone(first)
        node, limits = first, list[tuple[fx.Node, float]]()
        while made is not None and len(node.users) == 1:
            (node,) = node.users
            taken = layer_alone(node)
            if taken is not None:
                if _channels_match(made, taken):
                    pairs.append(_Pair(first, node, tuple(limits)))
                break
            if is_homogeneous(node, modules):
                continue
            low, high = bounds_of(node, modules) or (None, math.inf)
            if low != 0 or not 0 < high < math.inf:
                break
            limits.append((node, high))
    return pairs


def _channels_match(made: nn.Module, taken: nn.Module) -> bool:
    if isinstance(made, nn.Conv2d) and isinstance(taken, nn.Conv2d):
        return made.out_channels == taken.in_channels
    # Between a convolution and a linear layer, positions become channels as well.
    return isinstance(made, nn.Linear) and isinstance(taken, nn.Linear)


def _limit_channels(
    graph_module: fx.GraphModule, node: fx.Node, limit: Tensor, *, like: nn.Module | None
) -> None:
    """Replace a clamp by one with limits (C,) per channel."""
    name = f"{node.name}_channel_limit"
    shape = (-1, 1, 1) if isinstance(like, nn.Conv2d) else (-1,)
    limited = ChannelLimit(limit.view(shape))
    replace_by_module(graph_module, node, name, limited, takes=node.all_input_nodes[0])
