"""Which branches can be removed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from mixmix.graph.residual import find_residual_blocks, without_blocks


class Branched(nn.Module):
    """A branch that ends where it is added, or whose values are used elsewhere, too."""

    def __init__(self, *, leaks: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.leaks = leaks

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        inside = torch.relu(self.first(x))
        out = x + self.second(inside)
        return out * inside if self.leaks else out


@pytest.mark.parametrize("leaks", [False, True])
def test_branches_that_are_used_elsewhere_stay(leaks: bool) -> None:
    graph_module = fx.symbolic_trace(Branched(leaks=leaks))
    blocks = find_residual_blocks(graph_module)
    assert [block.layers for block in blocks] == ([] if leaks else [("first", "second")])
    x = torch.randn(3, 4)
    wanted = graph_module(x) if leaks else torch.relu(x)
    torch.testing.assert_close(without_blocks(graph_module, blocks)(x), wanted)
