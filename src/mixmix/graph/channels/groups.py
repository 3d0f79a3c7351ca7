"""Channels of a network that can only be removed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ChannelGroup", "Part", "Selection"]

# From the root of a group to output channels there.
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
