"""Units of two networks side by side, where one is narrower."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from mixmix.graph.unit_pairs import UnitChain, pair_units, select_channels, unit_errors
from mixmix.graph.units import channel_axis, split_into_units


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 8), 1), ((2, 5, 8), 2), ((2, 8, 5, 5), 1)], ids=str
)
def test_channels_are_last_in_tokens(shape: tuple[int, ...], axis: int) -> None:
    values = torch.arange(8.0).view([-1 if i == axis else 1 for i in range(len(shape))])
    tensor = values.expand(shape)
    assert channel_axis(tensor) == axis
    chosen = select_channels(tensor, torch.tensor([1, 6]))
    assert chosen.shape[axis] == 2 and set(chosen.unique().tolist()) == {1, 6}


class Tokens(nn.Module):
    """Two linear layers on as many tokens as the narrow one has channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.relu(self.first(x.flatten(2).transpose(1, 2))))
        return out


def test_tokens_of_a_narrower_network_are_compared_channel_by_channel() -> None:
    teacher, student = Tokens(6), Tokens(4)
    kept = torch.tensor([0, 2, 3, 5])
    graphs = [fx.symbolic_trace(network) for network in (student, teacher)]
    units = [
        split_into_units(
            graph,
            is_layer=lambda node: node.op == "call_module",
            is_entrance=lambda node: False,
        )
        for graph in graphs
    ]
    example = torch.randn(2, 3, 2, 2)
    pairs = pair_units(*graphs, (units[0], units[1]), example, kept_channels={"first": kept})
    assert [pair.student.layers for pair in pairs] == [("first",), ("last",)]
    wanted = torch.relu(teacher.first(example.flatten(2).transpose(1, 2)))[:, :, kept]
    features = select_channels(pairs[0].teacher.module(example), pairs[0].channels)
    torch.testing.assert_close(features, wanted)
    assert pairs[1].channels is None


def test_errors_are_relative_to_what_the_teacher_gives() -> None:
    chains = []
    for factor in (3.0, 2.0):
        network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        for layer in network:
            layer.weight.data = torch.eye(2)  # type: ignore[assignment]
        network[1].weight.data *= factor  # type: ignore[operator]
        graph = fx.symbolic_trace(network)
        units = split_into_units(
            graph,
            is_layer=lambda node: node.op == "call_module",
            is_entrance=lambda node: False,
        )
        chains.append(UnitChain(units))
    errors = unit_errors(chains[0], chains[1], torch.randn(300, 2), lambda batch: batch)
    # Of the second layer || 3x - 2x ||^2 / || 2x ||^2.
    assert errors == pytest.approx({"0": 0.0, "1": 0.25})
