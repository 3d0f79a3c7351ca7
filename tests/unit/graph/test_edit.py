"""Calls to new modules, where they are asked for and nowhere else."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from mixmix.graph.edit import insert_module_after, replace_by_module


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x)
        return torch.sin(y) + torch.cos(y)


X = torch.linspace(-1, 1, 5)


def test_a_module_is_put_before_chosen_users() -> None:
    graph_module = fx.symbolic_trace(Branches())
    nodes = {node.name: node for node in graph_module.graph.nodes}
    inserted = insert_module_after(
        graph_module, nodes["relu"], "doubled", Doubled(), users=[nodes["cos"]]
    )
    graph_module.recompile()
    assert list(inserted.users) == [nodes["cos"]] and nodes["relu"] in nodes["sin"].args
    y = torch.relu(X)
    torch.testing.assert_close(graph_module(X), torch.sin(y) + torch.cos(2 * y))


def test_a_module_takes_the_place_of_a_call() -> None:
    graph_module = fx.symbolic_trace(Branches())
    nodes = {node.name: node for node in graph_module.graph.nodes}
    replace_by_module(graph_module, nodes["relu"], "doubled", Doubled(), takes=nodes["x"])
    graph_module.recompile()
    assert "relu" not in {node.name for node in graph_module.graph.nodes}
    torch.testing.assert_close(graph_module(X), torch.sin(2 * X) + torch.cos(2 * X))
