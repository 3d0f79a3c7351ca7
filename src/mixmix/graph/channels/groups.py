"""Groups of channels that can only be removed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ChannelGroup", "Part", "Selection"]

# From the root of a group to output channels of that layer.
Selection = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Part:
    """The input or output side of a layer that has channels of a group.

    Attributes:
        layer: name of the layer, or of a parameter outside of layers.
        is_input: whether it is the input side.
        indices: for each element of the group, its channels (or features) on this side.
    """

    layer: str
    is_input: bool
    indices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that several layers share.

    Attributes:
        root: name of the layer whose output channels identify them.
        elements: output channels of the root that can only be removed together: one, or one of
            each group of a grouped convolution.
        parts: all sides of layers with these channels, including the root.
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
