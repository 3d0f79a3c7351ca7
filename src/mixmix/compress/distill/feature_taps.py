"""Features of two unlike networks that can be compared: what each gives last at a resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixmix.graph.shared import share_graph
from mixmix.graph.units import Unit
from mixmix.runtime import seeding

__all__ = ["TappedNetwork", "with_feature_taps"]


class TappedNetwork(nn.Module):
    """Units one after another: logits (N, K), and the outputs of some of them.

    Args:
        units: from the network's input to its logits; they share its weights.
        shown: by the index of a unit whose outputs are given, what they are put through.
    """

    def __init__(self, units: list[Unit], shown: dict[int, nn.Module]) -> None:
        super().__init__()
        self.units = nn.ModuleList(unit.module for unit in units)
        self.projections = nn.ModuleDict({str(index): module for index, module in shown.items()})

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
    """Both networks with what they give last at every height and width that both have.

    Where they have equally many channels these are compared one by one, else the student's are put
    through a linear projection, which is trained as well (FitNets, Romero et al. 2015). Vectors
    behind the last pooling count as a size of their own.

    Args:
        student: in eval mode; what it computes with is shared.
        teacher: likewise.
        example: (N, C, H, W) normalized images, N >= 2.
        seed: of the projections.

    Raises:
        CaptureError: if one of them cannot be captured as a graph.
    """
    units = [share_graph(network, example).units() for network in (student, teacher)]
    mine, others = (_last_at_each_size(each, example) for each in units)
    shown: tuple[dict[int, nn.Module], dict[int, nn.Module]] = ({}, {})
    for size in mine:
        if size in others:
            (index, width), (other, wanted) = mine[size], others[size]
            shown[0][index] = _projection(width, wanted, size, seed).to(example.device)
            shown[1][other] = nn.Identity()
    return TappedNetwork(units[0], shown[0]), TappedNetwork(units[1], shown[1])


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
    """By height and width, or () for vectors: the last unit that gives it, and its channels."""
    found = {}
    x = example
    for index, unit in enumerate(units[:-1]):
        x = unit.module(x)
        if x.ndim in (2, 4):
            found[tuple(x.shape[2:])] = (index, x.shape[1])
    return found
