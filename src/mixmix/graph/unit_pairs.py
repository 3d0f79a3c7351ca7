"""Units of two networks side by side: one is to give what the other does."""

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
    """A part of a student, and the part of its teacher whose outputs it is to give.

    Attributes:
        student: what it takes is what the pair before it gives.
        teacher: likewise.
        channels: (C,) the channels of the teacher's outputs that the student's are compared with;
            None for all of them.
    """

    student: Unit
    teacher: Unit
    channels: Tensor | None = None

    def targets(self, inputs: Tensor) -> Tensor:
        """What the student is to give, from what enters the teacher's part."""
        return select_channels(self.teacher.module(inputs), self.channels)


def select_channels(outputs: Tensor, channels: Tensor | None) -> Tensor:
    """Chosen channels of what a unit gives (see ``channel_axis``); None for all of them."""
    if channels is None:
        return outputs
    return outputs.index_select(channel_axis(outputs), channels)


class UnitChain(nn.Module):
    """Units one after another: logits (N, K), and what each unit before the last gives.

    Args:
        units: from the network's input to its logits.
        channels: for each unit, which of the channels of its outputs are given; None for all.
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
    """The student and the teacher, whose features can be compared one by one."""
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
    """The relative squared error of each layer's unit.

    Args:
        student: its outputs are compared.
        teacher: with those of this chain.
        images: (N, C, H, W) in [0, 1].
        prepare: gives a batch of them as both networks take it, on their device.
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
    """Put side by side what has the same layers and gives tensors of the same shape.

    Units are joined to the next where one network alone can be cut, and where the student's
    outputs are narrower and nothing tells which channels they are; the last pair ends with logits.

    Args:
        student: the graph that its units were cut from.
        teacher: likewise.
        units: of the student and of the teacher.
        example: (N, C, H, W) normalized images.
        kept_channels: by the names of layers: which of the teacher's output channels are those of
            the student.
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
        alike = got.shape == select_channels(wanted, pair.channels).shape
        if alike:
            pairs.append(pair)
            x, y, waiting = got, wanted, ([], [])
    assert not any(waiting), "both networks give logits of the same shape"
    return pairs


def _same_layers(
    units: Sequence[Unit], others: Sequence[Unit]
) -> list[tuple[list[Unit], list[Unit]]]:
    """Runs of units, as short as can be, that hold layers of the same names.

    What only the others have, such as residual branches that were removed, goes with what follows.
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
    """Units one after another as one."""
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
    """Of the last layer that gives as many channels as leave the unit."""
    if outputs.ndim < 2 or wanted.ndim != outputs.ndim:
        return None
    axis = channel_axis(outputs)
    for name in reversed(unit.layers):
        if name in kept and len(kept[name]) == outputs.shape[axis]:
            channels = kept[name].to(wanted.device)
            return channels if int(channels.max()) < wanted.shape[axis] else None
    return None
