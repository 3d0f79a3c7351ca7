"""Discovery of the groups of channels that can only be removed together.

The dependencies come from Torch-Pruning (Fang et al. 2023, DepGraph), which traces the backward
graph of one forward pass. It treats unknown operations as elementwise; trial removals of channels
check whether that is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixmix.errors import first_line, raise_if_out_of_memory
from mixmix.graph.channels.dependencies import (
    dependency_graph,
    dependent_channels,
    torch_pruning_name,
    trainable_copy,
    untraceable,
)
from mixmix.graph.channels.groups import ChannelGroup, Part
from mixmix.graph.channels.removal import TOLERANCE, disagreement, remove_channels
from mixmix.runtime.seeding import generator

__all__ = ["find_groups"]


def find_groups(
    model: nn.Module,
    example: Tensor,
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The groups whose channels can be removed, and the reasons why others cannot.

    Args:
        model: in eval mode; it is not changed.
        example: (N, C, H, W) normalized images.
        on_progress: called with the fraction done.

    Returns:
        The groups, and from roots of other groups to reasons.

    Raises:
        InputError: if the network cannot be traced.
    """
    copied = trainable_copy(model)
    graph = dependency_graph(copied, example)
    names = {module: name for name, module in copied.named_modules()}
    names |= dict(graph._param_to_name)
    groups, reasons = [], {}
    found = list(dependent_channels(graph))
    if not found:
        raise untraceable(model, RuntimeError("its outputs do not depend on any layer's weights"))
    for layer, group in reversed(found):  # traced from the output to the input
        root = names[layer]
        if isinstance(group, Exception):
            reasons[root] = (
                f"{torch_pruning_name()} cannot trace its channels ({first_line(group)})"
            )
            continue
        described = _describe(graph, group, root, names)
        if isinstance(described, str):
            reasons[root] = described
        else:
            groups.append(described)
    sound, failures = _sound_groups(model, example[:2], groups, on_progress)
    return sound, reasons | failures


def _describe(graph: Any, group: Any, root: str, names: Mapping[object, str]) -> ChannelGroup | str:
    """The group in terms of layers, or the reason why its channels cannot be removed."""
    sides: list[tuple[str, bool, list[int], list[int]]] = []
    num_blocks = 1
    for item in group:
        node, module = item.dep.target, item.dep.target.module
        is_input = not graph.is_out_channel_pruning_fn(item.dep.handler)
        if module not in names:
            continue  # an operation without parameters
        if not is_input and not node.outputs:
            return "its outputs are the outputs of the network"
        if any(index is None for index in item.root_idxs):
            return f"its channels are repeated before {names[module]}"
        if is_input and not isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            return f"its channels go into {names[module]} ({type(module).__name__})"
        blocks = _num_blocks(module)
        if blocks > 1:
            if list(item.idxs) != list(item.root_idxs) or len(item.idxs) != _width(
                module, is_input
            ):
                return f"its channels are only some of those of {names[module]}, which has groups"
            num_blocks = math.lcm(num_blocks, blocks)
        sides.append((names[module], is_input, list(item.idxs), list(item.root_idxs)))
    if not any(is_input for _, is_input, _, _ in sides):
        return "no module with weights reads its outputs"
    channels = sorted(set(sides[0][2]))
    if len(channels) % num_blocks or len(channels) // num_blocks < 2:
        return f"its {len(channels)} channels leave nothing to prune"
    size = len(channels) // num_blocks
    elements = tuple(
        tuple(channels[block * size + i] for block in range(num_blocks)) for i in range(size)
    )
    element_of = {channel: i for i, element in enumerate(elements) for channel in element}
    parts = []
    for name, is_input, indices, roots in sides:
        own: list[list[int]] = [[] for _ in elements]
        for index, channel in zip(indices, roots, strict=True):
            own[element_of[channel]].append(index)
        if len(set(map(len, own))) > 1:
            return f"only some of its channels reach {name}"
        parts.append(Part(name, is_input, tuple(map(tuple, own))))
    return ChannelGroup(root, elements, tuple(parts))


def _num_blocks(module: object) -> int:
    """Number of equal blocks that a layer divides its channels into."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups != module.out_channels:
        return module.groups
    return 1


def _width(module: object, is_input: bool) -> int:
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    assert isinstance(module, nn.modules.conv._ConvNd)
    return module.in_channels if is_input else module.out_channels


def _sound_groups(
    model: nn.Module,
    example: Tensor,
    groups: Sequence[ChannelGroup],
    on_progress: Callable[[float], None],
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The removable groups, by bisection, and the reasons of the others."""
    draws = generator(0, "channels")
    sound: list[ChannelGroup] = []
    reasons: dict[str, str] = {}
    waiting = [list(groups)] if groups else []
    while waiting:
        tried = waiting.pop()
        failure = _failure(model, example, tried, draws)
        if not failure:
            sound += tried
        elif len(tried) == 1:
            reasons[tried[0].root] = failure
        else:
            half = len(tried) // 2
            waiting += [tried[half:], tried[:half]]
        on_progress((len(sound) + len(reasons)) / len(groups))
    return sound, reasons


def _failure(
    model: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], draws: torch.Generator
) -> str:
    """The failure when a random half of the channels of every group is removed, or empty."""
    selection = {}
    for group in groups:
        order = torch.randperm(len(group.elements), generator=draws).tolist()
        chosen = order[: len(order) // 2]
        selection[group.root] = [channel for i in chosen for channel in group.elements[i]]
    try:
        pruned = remove_channels(model, example, selection)
    except Exception as failure:  # Torch-Pruning raises many kinds
        raise_if_out_of_memory(failure)
        return f"{torch_pruning_name()} cannot remove its channels ({first_line(failure)})"
    try:
        error = disagreement(pruned, model, groups, selection, example)
    except Exception as failure:  # whatever the model's own code raises
        raise_if_out_of_memory(failure)
        return f"the network does not run with fewer of them ({first_line(failure)})"
    if error <= TOLERANCE:
        return ""
    return "its channels are split, shuffled or joined in a way that cannot be traced"
