"""Which channels of a network can only be removed together, and their removal.

The dependencies come from Torch-Pruning (Fang et al. 2023, DepGraph), which follows the backward
graph of one forward pass. It takes operations that it does not know for elementwise ones; whether
that was right is found out here by removing channels, so that no network comes out wrong.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixmix.capture import relative_error
from mixmix.errors import InputError
from mixmix.seeding import generator

__all__ = [
    "ChannelGroup",
    "Part",
    "Selection",
    "check_removal",
    "find_groups",
    "kept_output_channels",
    "remove_channels",
    "silence_channels_",
]

# Both sides are computed in double precision; what is left is rounding.
_TOLERANCE = 1e-6
_NORMS_ACROSS_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)

Selection = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Part:
    """One side of a layer that has channels of a group.

    Attributes:
        layer: name of the layer, or of a parameter that belongs to none.
        is_input: whether these are the layer's input channels.
        indices: for each element of the group, its channels (or features) on this side.
    """

    layer: str
    is_input: bool
    indices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that several layers share.

    Attributes:
        root: the layer whose outputs they are counted by.
        elements: output channels of the root that can only be removed together: one, or one of
            each group of a grouped convolution.
        parts: where else they are, the root included.
    """

    root: str
    elements: tuple[tuple[int, ...], ...]
    parts: tuple[Part, ...]

    @property
    def channels_per_element(self) -> int:
        return len(self.elements[0])

    @property
    def consumers(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.is_input)


def find_groups(
    model: nn.Module,
    example: Tensor,
    *,
    on_progress: Callable[[float], None] = lambda share: None,
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """All groups whose channels can be removed, and why others cannot.

    Args:
        model: in eval mode; it is not changed.
        example: (N, C, H, W) normalised images.
        on_progress: called with the share done.

    Returns:
        The groups, and for the root of each other group the reason.

    Raises:
        InputError: if the network cannot be traced at all.
    """
    copied = _trainable_copy(model)
    graph = _dependency_graph(copied, example)
    names = {module: name for name, module in copied.named_modules()}
    names |= dict(graph._param_to_name)
    groups, reasons = [], {}
    try:
        found = list(graph.get_all_groups())
    except Exception as failure:  # of whatever kind Torch-Pruning stumbles over
        raise _untraceable(model, failure) from failure
    if not found:
        raise _untraceable(model, RuntimeError("its outputs have no gradient by any layer"))
    for group in reversed(found):  # it is followed from the output to the input
        root = names[group[0].dep.target.module]
        described = _describe(graph, group, root, names)
        if isinstance(described, str):
            reasons[root] = described
        else:
            groups.append(described)
    sound, failures = _sound_groups(model, example[:2], groups, on_progress)
    return sound, reasons | failures


def remove_channels(model: nn.Module, example: Tensor, selection: Selection) -> nn.Module:
    """A copy without some channels, whose outputs are those of the model with them silenced.

    Args:
        model: in eval mode; it is not changed.
        example: (N, C, H, W) normalised images.
        selection: from roots of groups to the output channels to be removed there.

    Raises:
        InputError: if they cannot be removed.
    """
    copied = _trainable_copy(model)
    graph = _dependency_graph(copied, example)
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
    """What is left of the output channels of layers and normalisations that lose some.

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
        gone = [i for i, element in enumerate(group.elements) if element[0] in chosen]
        for part in group.parts if gone else ():
            if not part.is_input:
                lost.setdefault(part.layer, set()).update(
                    index for i in gone for index in part.indices[i]
                )
    kept = {}
    for name, module in model.named_modules():
        if name in lost:
            own = next(iter(module.parameters(recurse=False)), None)
            assert own is not None, "layers and normalisations have a weight"
            transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
            width = module.out_channels if transposed else len(own)
            kept[name] = torch.tensor([i for i in range(width) if i not in lost[name]])
    return kept


@torch.no_grad()
def silence_channels_(
    model: nn.Module, groups: Sequence[ChannelGroup], selection: Selection
) -> None:
    """Set the weights to zero, in place, with which selected channels are read.

    The outputs are those without the channels; with normalisation across channels they are not.
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
        error = _disagreement(pruned, model, groups, selection, example[:2])
    except Exception as failure:  # whatever the model's own code raises
        raise InputError(
            f"{type(model).__name__} does not run with fewer channels: {_first_line(failure)}; its "
            "code fixes their number: take it from the tensors there"
        ) from failure
    if not error <= _TOLERANCE:
        raise InputError(
            f"{type(model).__name__} with fewer channels does not compute what it should (by "
            f"{error:.1e}): Torch-Pruning {_version()} misses how they depend on each other; prune "
            "weights instead"
        )


def _disagreement(
    pruned: nn.Module,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    selection: Selection,
    example: Tensor,
) -> float:
    """Relative difference of the outputs of a pruned network and of the silenced original.

    Normalisation across channels is left out on both sides, since it is not the same without them.
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


def _trainable_copy(model: nn.Module) -> nn.Module:
    """Torch-Pruning follows gradients."""
    return copy.deepcopy(model).eval().requires_grad_(True)


def _dependency_graph(model: nn.Module, example: Tensor) -> Any:
    import torch_pruning  # takes long to import

    try:
        with torch.enable_grad():
            return torch_pruning.DependencyGraph().build_dependency(
                model, example[:1], verbose=False
            )
    except Exception as failure:  # of whatever kind Torch-Pruning stumbles over
        raise _untraceable(model, failure) from failure


def _untraceable(model: nn.Module, failure: Exception) -> InputError:
    return InputError(
        f"Torch-Pruning {_version()} cannot trace {type(model).__name__}: {_first_line(failure)}; "
        "prune weights instead of channels, or take out what it does not know"
    )


def _version() -> str:
    from importlib.metadata import version

    return version("torch-pruning")


def _first_line(failure: Exception) -> str:
    lines = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {lines[0][:200]}" if lines else type(failure).__name__


def _describe(graph: Any, group: Any, root: str, names: Mapping[object, str]) -> ChannelGroup | str:
    """The group in our own terms, or why its channels cannot be removed."""
    places: list[tuple[str, bool, list[int], list[int]]] = []
    num_blocks = 1
    for item in group:
        node, module = item.dep.target, item.dep.target.module
        is_input = not graph.is_out_channel_pruning_fn(item.dep.handler)
        if module not in names:
            continue  # an operation without parameters
        if not is_input and not node.outputs:
            return "its outputs are the network's"
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
        places.append((names[module], is_input, list(item.idxs), list(item.root_idxs)))
    if not any(is_input for _, is_input, _, _ in places):
        return "no layer reads its outputs"
    channels = sorted(set(places[0][2]))
    if len(channels) % num_blocks or len(channels) // num_blocks < 2:
        return f"its {len(channels)} channels leave nothing to remove"
    size = len(channels) // num_blocks
    elements = tuple(
        tuple(channels[block * size + i] for block in range(num_blocks)) for i in range(size)
    )
    element_of = {channel: i for i, element in enumerate(elements) for channel in element}
    parts = []
    for name, is_input, indices, roots in places:
        own: list[list[int]] = [[] for _ in elements]
        for index, channel in zip(indices, roots, strict=True):
            own[element_of[channel]].append(index)
        parts.append(Part(name, is_input, tuple(map(tuple, own))))
    return ChannelGroup(root, elements, tuple(parts))


def _num_blocks(module: object) -> int:
    """Into how many equal blocks a layer divides its channels."""
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
    """Those that can be removed together, found by halving those that cannot."""
    draws = generator(0, "channels")
    sound: list[ChannelGroup] = []
    reasons: dict[str, str] = {}
    waiting = [list(groups)]
    while waiting:
        several = waiting.pop()
        if not several:
            continue
        failure = _failure(model, example, several, draws)
        if not failure:
            sound += several
        elif len(several) == 1:
            reasons[several[0].root] = failure
        else:
            half = len(several) // 2
            waiting += [several[half:], several[:half]]
        on_progress((len(sound) + len(reasons)) / len(groups))
    return sound, reasons


def _failure(
    model: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], draws: torch.Generator
) -> str:
    """What goes wrong where a random half of the channels of every group is removed."""
    selection = {}
    for group in groups:
        order = torch.randperm(len(group.elements), generator=draws).tolist()
        chosen = order[: len(order) // 2]
        selection[group.root] = [channel for i in chosen for channel in group.elements[i]]
    try:
        pruned = remove_channels(model, example, selection)
    except Exception as failure:  # of whatever kind Torch-Pruning stumbles over
        return f"Torch-Pruning {_version()} cannot remove its channels ({_first_line(failure)})"
    try:
        error = _disagreement(pruned, model, groups, selection, example)
    except Exception as failure:  # whatever the model's own code raises
        return f"the network does not run with fewer of them ({_first_line(failure)})"
    if error <= _TOLERANCE:
        return ""
    return "its channels are split, shuffled or joined in a way that cannot be followed"


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
