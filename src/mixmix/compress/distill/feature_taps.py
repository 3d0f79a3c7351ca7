"""Comparable features of two architectures: the last feature map at each resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixmix.graph.shared import share_graph
from mixmix.graph.units import Unit
from mixmix.runtime import seeding

__all__ = ["TappedNetwork", "with_feature_taps"]


class TappedNetwork(nn.Module):
    """A sequence of units that returns logits (N, K) and the outputs of some units.

    Args:
        units: all units of a network, whose weights they share.
        projections: modules that are applied to returned outputs, by the index of the unit.
    """

    def __init__(self, units: list[Unit], projections: dict[int, nn.Module]) -> None:
        super().__init__()
        self.units = nn.ModuleList(unit.module for unit in units)
        self.projections = nn.ModuleDict({str(i): module for i, module in projections.items()})

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        features = []
        for index, unit in enumerate(self.units):
            x = unit(x)
            if str(index) in self.projections:
                features.append(self.projections[str(index)](x))
        return x, tuple(features)


def with_feature_taps(
    student: nn.Module, teacher: nn.Module, example: Tensor, *, seed: int
) -> tuple[TappedNetwork, TappedNetwork]:
    """Make both networks return their last feature map at each common height and width.

    If the numbers of channels differ, the student's features get a trainable linear projection
    (FitNets, Romero et al. 2015). Vectors after the last pooling count as a size of their own.

    Args:
        student: a network in eval mode, whose weights are shared.
        teacher: a network in eval mode, whose weights are shared.
        example: (N, C, H, W) normalized images, N >= 2.
        seed: seed of the projections.

    Raises:
        CaptureError: if a network cannot be captured as a graph.
    """
    units = [share_graph(network, example).units() for network in (student, teacher)]
    mine, others = (_last_at_each_size(each, example) for each in units)
    taps: tuple[dict[int, nn.Module], dict[int, nn.Module]] = ({}, {})
    for size in mine:
        if size in others:
            (index, width), (other, wanted) = mine[size], others[size]
            taps[0][index] = _projection(width, wanted, size, seed).to(example.device)
            taps[1][other] = nn.Identity()
    return TappedNetwork(units[0], taps[0]), TappedNetwork(units[1], taps[1])


def _projection(width: int, wanted: int, size: tuple[int, ...], seed: int) -> nn.Module:
    if width == wanted:
        return nn.Identity()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.child_seed(seed, "projection", *size))
        if size:
            return nn.Conv2d(width, wanted, 1, bias=False)
        return nn.Linear(width, wanted, bias=False)


@torch.no_grad()
def _last_at_each_size(
    units: list[Unit], example: Tensor
) -> dict[tuple[int, ...], tuple[int, int]]:
    """Index and channels of the last unit for each (height, width), or () for vectors."""
    found = {}
    x = example
    for index, unit in enumerate(units[:-1]):
        x = unit.module(x)
        if x.ndim in (2, 4):
            found[tuple(x.shape[2:])] = (index, x.shape[1])
    return found
