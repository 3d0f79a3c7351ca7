"""Features of two unlike networks that can be compared: what each gives last at a resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.compression.shared_graph import share_graph
from mixmix.compression.units import Unit

__all__ = ["StagedNetwork", "staged"]


class StagedNetwork(nn.Module):
    """Units one after another: logits (N, K), and the outputs of some of them.

    Args:
        units: from the network's input to its logits; they share its weights.
        shown: indices of the units whose outputs are given.
        as_maps: for each of these, whether its channels are summed up (see ``attention_map``).
    """

    def __init__(self, units: list[Unit], shown: list[int], as_maps: list[bool]) -> None:
        super().__init__()
        self.units = nn.ModuleList(unit.module for unit in units)
        self._as_map = dict(zip(shown, as_maps, strict=True))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        features = []
        for index, unit in enumerate(self.units):
            x = unit(x)
            if index in self._as_map:
                features.append(attention_map(x) if self._as_map[index] else x)
        return x, tuple(features)


def attention_map(features: Tensor) -> Tensor:
    """Where features (N, C, H, W) are large: (N, H, W) of length 1 (Zagoruyko & Komodakis 2017)."""
    maps = features.square().mean(1)
    return F.normalize(maps.flatten(1), dim=1).view_as(maps)


def staged(
    student: nn.Module, teacher: nn.Module, example: Tensor
) -> tuple[StagedNetwork, StagedNetwork]:
    """Both networks with what they give last at every height and width that both have.

    Where they have equally many channels these are compared one by one, else attention maps are.
    Vectors behind the last pooling count as a size of their own, if they are equally long.

    Args:
        student: in eval mode; what it computes with is shared.
        teacher: likewise.
        example: (N, C, H, W) normalised images, N >= 2.

    Raises:
        CaptureError: if one of them cannot be captured as a graph.
    """
    units = [share_graph(network, example).units() for network in (student, teacher)]
    mine, others = (_last_at_each_size(each, example) for each in units)
    # Without places there is no map.
    sizes = [s for s in mine if s in others and (s or mine[s][1] == others[s][1])]
    as_maps = [mine[size][1] != others[size][1] for size in sizes]
    first, second = (
        StagedNetwork(each, [last[size][0] for size in sizes], as_maps)
        for each, last in zip(units, (mine, others), strict=True)
    )
    return first, second


@torch.no_grad()
def _last_at_each_size(
    units: list[Unit], example: Tensor
) -> dict[tuple[int, ...], tuple[int, int]]:
    """By height and width, or () for vectors: the last unit that gives it, and its channels."""
    found = {}
    x = example
    for index, unit in enumerate(units[:-1]):
        x = unit.module(x)
        if x.ndim in (2, 4):
            found[tuple(x.shape[2:])] = (index, x.shape[1])
    return found
