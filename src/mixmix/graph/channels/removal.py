"""Removal of channels, and whether what is left computes what it should."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mixmix.errors import InputError, first_line
from mixmix.graph.capture import relative_error
from mixmix.graph.channels.dependencies import (
    dependency_graph,
    torch_pruning_name,
    trainable_copy,
)
from mixmix.graph.channels.groups import ChannelGroup, Selection

__all__ = [
    "TOLERANCE",
    "check_removal",
    "disagreement",
    "kept_output_channels",
    "remove_channels",
    "silence_channels_",
]

# Both sides are computed in double precision; what is left is rounding.
TOLERANCE = 1e-6
_NORMS_ACROSS_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)


def remove_channels(model: nn.Module, example: Tensor, selection: Selection) -> nn.Module:
    """A copy without some channels, whose outputs are those of the model with them silenced.

    Args:
        model: in eval mode; it is not changed.
        example: (N, C, H, W) normalized images.
        selection: from roots of groups to the output channels to be removed there.

    Raises:
        InputError: if they cannot be removed.
    """
    copied = trainable_copy(model)
    graph = dependency_graph(copied, example)
    modules = dict(copied.named_modules())
    for root, channels in selection.items():
        if channels:
            prune = graph.get_pruner_of_module(modules[root]).prune_out_channels
            graph.get_pruning_group(modules[root], prune, sorted(channels)).prune()
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in copied.named_parameters():
        parameter.grad = None
        parameter.requires_grad_(trainable[name])
    return copied.eval()


def kept_output_channels(
    model: nn.Module, groups: Sequence[ChannelGroup], selection: Selection
) -> dict[str, Tensor]:
    """What is left of the output channels of layers and normalizations that lose some.

    Args:
        model: the whole network.
        groups: of its channels.
        selection: from roots of groups to the output channels that are removed there.

    Returns:
        From names of layers to indices (kept,) of their channels in the whole network.
    """
    lost: dict[str, set[int]] = {}
    for group in groups:
        chosen = set(selection.get(group.root, ()))
        removed = [i for i, element in enumerate(group.elements) if element[0] in chosen]
        for part in group.parts if removed else ():
            if not part.is_input:
                lost.setdefault(part.layer, set()).update(
                    index for i in removed for index in part.indices[i]
                )
    kept = {}
    for name, module in model.named_modules():
        if name in lost:
            own = next(iter(module.parameters(recurse=False)), None)
            assert own is not None, "layers and normalizations have a weight"
            transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
            width = module.out_channels if transposed else len(own)
            kept[name] = torch.tensor([i for i in range(width) if i not in lost[name]])
    return kept


@torch.no_grad()
def silence_channels_(
    model: nn.Module, groups: Sequence[ChannelGroup], selection: Selection
) -> None:
    """Set the weights to zero, in place, with which selected channels are read.

    The outputs are those without the channels; with normalization across channels they are not.
    """
    modules = dict(model.named_modules())
    for group in groups:
        chosen = set(selection.get(group.root, ()))
        elements = [i for i, element in enumerate(group.elements) if element[0] in chosen]
        for part in group.consumers if elements else ():
            layer = modules[part.layer]
            assert isinstance(layer, nn.modules.conv._ConvNd | nn.Linear)
            _zero_inputs_(layer, [index for i in elements for index in part.indices[i]])


def check_removal(
    pruned: nn.Module,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    selection: Selection,
    example: Tensor,
) -> None:
    """Compare a network with the one that it was made from by ``remove_channels``.

    Raises:
        InputError: if the outputs are not those of the model with the channels silenced.
    """
    try:
        error = disagreement(pruned, model, groups, selection, example[:2])
    except Exception as failure:  # whatever the model's own code raises
        raise InputError(
            f"{type(model).__name__} does not run with fewer channels: {first_line(failure)}; its "
            "code fixes their number: take it from the tensors there"
        ) from failure
    if not error <= TOLERANCE:
        raise InputError(
            f"{type(model).__name__} with fewer channels does not compute what it should (by "
            f"{error:.1e}): {torch_pruning_name()} misses how they depend on each other; prune "
            "weights instead"
        )


def disagreement(
    pruned: nn.Module,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    selection: Selection,
    example: Tensor,
) -> float:
    """Relative difference of the outputs of a pruned network and of the silenced original.

    Normalization across channels is left out on both sides, since it is not the same without them.
    """
    # Not every accelerator has double precision.
    double = [copy.deepcopy(network).cpu().double().eval() for network in (pruned, model)]
    silence_channels_(double[1], groups, selection)
    inputs = example.cpu().double()
    with torch.no_grad(), _without_norms(double):
        got, wanted = (network(inputs) for network in double)
    return relative_error(got, wanted) if got.shape == wanted.shape else math.inf


def _zero_inputs_(layer: nn.Module, channels: Sequence[int]) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer, nn.Linear):
        weight[:, channels] = 0
        return
    assert isinstance(layer, nn.modules.conv._ConvNd)
    if layer.transposed:
        weight[channels] = 0
        return
    per_group = layer.in_channels // layer.groups
    outputs_per_group = layer.out_channels // layer.groups
    for channel in channels:
        which, offset = divmod(channel, per_group)
        weight[which * outputs_per_group : (which + 1) * outputs_per_group, offset] = 0


@contextmanager
def _without_norms(networks: Sequence[nn.Module]) -> Iterator[None]:
    hooks = [
        module.register_forward_hook(lambda _, inputs, output: inputs[0])
        for network in networks
        for module in network.modules()
        if isinstance(module, _NORMS_ACROSS_CHANNELS)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
