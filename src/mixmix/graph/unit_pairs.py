"""Pairs of units of a student and a teacher with matching outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from mixmix.graph.units import Unit, channel_axis

__all__ = ["UnitChain", "UnitPair", "chains_of", "pair_units", "select_channels", "unit_errors"]

_INFERENCE_BATCH = 128


@dataclass(frozen=True)
class UnitPair:
    """A unit of a student and the unit of its teacher with the target outputs.

    Attributes:
        student: takes the output of the preceding pair's student.
        teacher: likewise.
        channels: (C,) channels of the teacher's outputs that match the student's; None for all.
    """

    student: Unit
    teacher: Unit
    channels: Tensor | None = None


def select_channels(outputs: Tensor, channels: Tensor | None) -> Tensor:
    """Channels of a unit's outputs along ``channel_axis``; None for all."""
    if channels is None:
        return outputs
    return outputs.index_select(channel_axis(outputs), channels)


class UnitChain(nn.Module):
    """The composition of units: returns logits (N, K) and the outputs of all units but the last.

    Args:
        units: from the network's input to its logits.
        channels: for each unit, the channels of its outputs that are returned; None for all.
    """

    def __init__(
        self, units: Sequence[Unit], channels: Sequence[Tensor | None] | None = None
    ) -> None:
        super().__init__()
        self.units = nn.ModuleList(unit.module for unit in units)
        self.layers = [unit.layers for unit in units]
        self._channels = list(channels or [None] * len(units))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        outputs = []
        for unit, channels in zip(self.units, self._channels, strict=True):
            x = unit(x)
            outputs.append(select_channels(x, channels))
        return x, tuple(outputs[:-1])


def chains_of(pairs: Sequence[UnitPair]) -> tuple[UnitChain, UnitChain]:
    """The student and the teacher as chains with comparable features."""
    return (
        UnitChain([pair.student for pair in pairs]),
        UnitChain([pair.teacher for pair in pairs], [pair.channels for pair in pairs]),
    )


@torch.no_grad()
def unit_errors(
    student: UnitChain,
    teacher: UnitChain,
    images: Tensor,
    prepare: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Relative squared error of the outputs of each layer's unit, by name of the layer.

    Args:
        student: whose errors are computed.
        teacher: the reference.
        images: (N, C, H, W) in [0, 1].
        prepare: normalizes a batch, and moves it to the device of the networks.
    """
    squares = torch.zeros(2, len(teacher.layers))
    for batch in images.split(_INFERENCE_BATCH):
        inputs = prepare(batch)
        found, wanted = (
            (*features, logits) for logits, features in (student(inputs), teacher(inputs))
        )
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            squares[0, index] += (one - other).square().sum().cpu()
            squares[1, index] += other.square().sum().cpu()
    errors = (squares[0] / squares[1].clamp_min(1e-12)).tolist()
    return {
        name: error for names, error in zip(teacher.layers, errors, strict=True) for name in names
    }


@torch.no_grad()
def pair_units(
    student: fx.GraphModule,
    teacher: fx.GraphModule,
    units: tuple[Sequence[Unit], Sequence[Unit]],
    example: Tensor,
    *,
    kept_channels: Mapping[str, Tensor] | None = None,
) -> list[UnitPair]:
    """Pair the units of two networks that have the same layers and outputs of the same shape.

    Units are merged with the next where only one network can be cut, and where it is unknown which
    of the teacher's channels a narrower student has. The last pair returns logits.

    Args:
        student: the graph of the first units.
        teacher: the graph of the second units.
        units: of the student and of the teacher.
        example: (N, C, H, W) normalized images.
        kept_channels: from names of layers to the teacher's output channels that the student has.
    """
    pairs: list[UnitPair] = []
    x = y = example
    waiting: tuple[list[Unit], list[Unit]] = ([], [])
    for mine, others in _same_layers(*units):
        waiting[0].extend(mine)
        waiting[1].extend(others)
        pair = UnitPair(_joined(student, waiting[0]), _joined(teacher, waiting[1]))
        got, wanted = pair.student.module(x), pair.teacher.module(y)
        if got.shape != wanted.shape:
            channels = _channels_of(pair.student, got, wanted, kept_channels or {})
            pair = replace(pair, channels=channels)
        if got.shape == select_channels(wanted, pair.channels).shape:
            pairs.append(pair)
            x, y, waiting = got, wanted, ([], [])
    assert not any(waiting), "both networks return logits of the same shape"
    return pairs


def _same_layers(
    units: Sequence[Unit], others: Sequence[Unit]
) -> list[tuple[list[Unit], list[Unit]]]:
    """The shortest runs of units that contain layers of the same names.

    Units that only the others have, such as pruned residual branches, belong to the following run.
    """
    known = {layer for unit in units for layer in unit.layers}
    groups: list[tuple[list[Unit], list[Unit]]] = [([], [])]
    position = 0
    seen: set[str] = set()
    for unit in units:
        groups[-1][0].append(unit)
        seen.update(unit.layers)
        end, found = position, set[str]()
        for index in range(position, len(others)):
            found.update(known.intersection(others[index].layers))
            if found == seen:
                end = index + 1
        if end > position:
            groups[-1][1].extend(others[position:end])
            position, seen = end, set()
            groups.append(([], []))
    tail, groups = groups[-1], groups[:-1]
    rest = (tail[0], list(others[position:]))
    if groups and any(rest):
        groups[-1][0].extend(rest[0])
        groups[-1][1].extend(rest[1])
    return groups or [rest]


def _joined(whole: fx.GraphModule, units: Sequence[Unit]) -> Unit:
    """The composition of units as one unit."""
    if len(units) == 1:
        return units[0]
    graph = fx.Graph()
    value = graph.placeholder("x")
    for unit in units:
        copies: dict[fx.Node, fx.Node] = {}
        for node in unit.module.graph.nodes:
            if node.op == "placeholder":
                copies[node] = value
            elif node.op == "output":
                value = copies[node.args[0]]
            else:
                copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(value)
    layers = dict.fromkeys(name for unit in units for name in unit.layers)
    return Unit(fx.GraphModule(whole, graph), tuple(layers))


def _channels_of(
    unit: Unit, outputs: Tensor, wanted: Tensor, kept: Mapping[str, Tensor]
) -> Tensor | None:
    """Kept channels of the last layer that has as many as the unit's outputs."""
    if outputs.ndim < 2 or wanted.ndim != outputs.ndim:
        return None
    axis = channel_axis(outputs)
    for name in reversed(unit.layers):
        if name in kept and len(kept[name]) == outputs.shape[axis]:
            channels = kept[name].to(wanted.device)
            return channels if int(channels.max()) < wanted.shape[axis] else None
    return None
