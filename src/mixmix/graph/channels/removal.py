"""Removal of channels, and verification of the pruned network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from mixmix.errors import InputError, first_line, raise_if_out_of_memory
from mixmix.graph.agreement import output_error
from mixmix.graph.channels.dependencies import (
    dependency_graph,
    torch_pruning_name,
    trainable_copy,
)
from mixmix.graph.channels.groups import ChannelGroup, Part, Selection
from mixmix.graph.copies import detached_copy

__all__ = [
    "TOLERANCE",
    "check_removal",
    "disagreement",
    "kept_output_channels",
    "remove_channels",
    "silence_channels_",
]

# For double precision.
TOLERANCE = 1e-6
_NORMS_ACROSS_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)


def remove_channels(model: nn.Module, example: Tensor, selection: Selection) -> nn.Module:
    """A copy without some channels; its outputs are those of ``silence_channels_``.

    Args:
        model: in eval mode; it is not changed.
        example: (N, C, H, W) normalized images.
        selection: from roots of groups to the output channels to remove.

    Raises:
        InputError: if the model cannot be traced.
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
    """Output channels that pruned layers and normalizations keep.

    Args:
        model: the network before pruning.
        groups: of its channels.
        selection: from roots of groups to the removed output channels.

    Returns:
        From names of layers to indices (kept,) of their original channels.
    """
    removed: dict[str, set[int]] = {}
    for part, indices in _selected(groups, selection):
        if not part.is_input:
            removed.setdefault(part.layer, set()).update(indices)
    kept = {}
    for name, module in model.named_modules():
        # Normalizations may have only statistics, or nothing.
        tensors = chain(module.parameters(recurse=False), module.buffers(recurse=False))
        own = next((tensor for tensor in tensors if tensor.ndim), None)
        if name in removed and own is not None:
            transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
            width = module.out_channels if transposed else len(own)
            kept[name] = torch.tensor([i for i in range(width) if i not in removed[name]])
    return kept


def _selected(
    groups: Sequence[ChannelGroup], selection: Selection
) -> Iterator[tuple[Part, list[int]]]:
    """The parts of groups with selected channels, and these channels."""
    for group in groups:
        chosen = set(selection.get(group.root, ()))
        elements = [i for i, element in enumerate(group.elements) if element[0] in chosen]
        for part in group.parts if elements else ():
            yield part, [index for i in elements for index in part.indices[i]]


@torch.no_grad()
def silence_channels_(
    model: nn.Module, groups: Sequence[ChannelGroup], selection: Selection
) -> None:
    """Set the weights of all consumers of selected channels to zero, in place.

    Unless there is normalization across channels, the outputs are those without the channels.
    """
    modules = dict(model.named_modules())
    for part, indices in _selected(groups, selection):
        if part.is_input:
            layer = modules[part.layer]
            assert isinstance(layer, nn.modules.conv._ConvNd | nn.Linear)
            _zero_inputs_(layer, indices)


def check_removal(
    pruned: nn.Module,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    selection: Selection,
    example: Tensor,
) -> None:
    """Compare the network that ``remove_channels`` returned with the original.

    Raises:
        InputError: if the outputs are not those of the original with the channels silenced.
    """
    try:
        error = disagreement(pruned, model, groups, selection, example[:2])
    except Exception as failure:  # whatever the model's own code raises
        raise_if_out_of_memory(failure)
        raise InputError(
            f"{type(model).__name__} does not run with fewer channels: {first_line(failure)}; "
            "their number is hard-coded: read it from the shapes of tensors instead"
        ) from failure
    if not error <= TOLERANCE:
        raise InputError(
            f"the outputs of {type(model).__name__} with fewer channels are wrong (by "
            f"{error:.1e}): {torch_pruning_name()} misses a dependency between channels; prune "
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

    Normalizations across channels only scale in both networks, by what their inputs in the original
    have, since their outputs depend on the number of channels.
    """
    # Not every accelerator has double precision.
    double = [detached_copy(network).cpu().double().eval() for network in (model, pruned)]
    silence_channels_(double[0], groups, selection)
    inputs = example.cpu().double()
    with torch.no_grad(), _scaling_norms(double):
        wanted, got = (network(inputs) for network in double)
    return output_error(got, wanted) if got.shape == wanted.shape else math.inf


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
def _scaling_norms(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Normalizations divide by the root mean square of what the first one of a name gets first."""
    sizes: dict[str, Tensor] = {}

    def scale(name: str, inputs: tuple[Tensor, ...]) -> Tensor:
        size = sizes.setdefault(name, inputs[0].square().mean().sqrt().clamp_min(1e-12))
        return inputs[0] / size

    hooks = [
        module.register_forward_hook(lambda _1, inputs, _2, name=name: scale(name, inputs))
        for network in networks
        for name, module in network.named_modules()
        if isinstance(module, _NORMS_ACROSS_CHANNELS)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
