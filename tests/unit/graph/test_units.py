"""Units found from the graph alone."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, tiny_network
from torch import fx, nn

from mixmix.graph.capture import capture
from mixmix.graph.fold import fold_batch_norms
from mixmix.graph.units import Unit, split_into_units

EXAMPLE = torch.randn(4, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))


def units_of(family: str) -> tuple[fx.GraphModule, list[Unit]]:
    graph_module = capture(tiny_network(family), EXAMPLE)
    fold_batch_norms(graph_module, EXAMPLE)

    def is_layer(node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(
            graph_module.get_submodule(str(node.target)), nn.Conv2d | nn.Linear
        )

    return graph_module, split_into_units(
        graph_module, is_layer=is_layer, is_entrance=lambda node: False
    )


@pytest.mark.parametrize("family", sorted(NETWORKS))
def test_units_in_a_row_are_the_network(family: str) -> None:
    graph_module, units = units_of(family)
    x = EXAMPLE
    for unit in units:
        x = unit.module(x)
        assert isinstance(x, torch.Tensor)
    assert torch.equal(x, graph_module(EXAMPLE))
    layers = [
        name
        for name, module in graph_module.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    assert sorted(layers) == sorted(name for unit in units for name in unit.layers)


def test_residual_blocks_are_units() -> None:
    _, units = units_of("residual")
    assert [len(unit.layers) for unit in units] == [1, 3, 3, 1]
    assert units[1].layers == ("1.body.0.0", "1.body.1.0", "1.shortcut.0")


def test_plain_layers_are_units_of_their_own() -> None:
    _, units = units_of("plain")
    assert [len(unit.layers) for unit in units] == [1, 1, 1, 1]


def test_what_is_concatenated_is_a_unit() -> None:
    _, units = units_of("concat")
    assert [len(unit.layers) for unit in units] == [1, 2, 1, 2, 1, 1]


def test_channel_splits_are_inside_units() -> None:
    _, units = units_of("shuffle")
    assert all(len(unit.layers) == 1 for unit in units)


def test_units_share_layers_with_the_whole() -> None:
    graph_module, units = units_of("plain")
    name = units[1].layers[0]
    assert units[1].module.get_submodule(name) is graph_module.get_submodule(name)
