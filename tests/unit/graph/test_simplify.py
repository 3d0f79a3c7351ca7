"""Rewrites that must leave the function as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixmix.graph.capture import capture
from mixmix.graph.simplify import drop_identities

EXAMPLE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class InPlace(nn.Module):
    """Dropout does nothing in eval mode; what works in place gives back its tensor, changed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout = nn.Conv2d(3, 4, 3), nn.Dropout(0.5)
        self.identity, self.relu = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.identity(self.dropout(self.layer(x))))
        return nn.functional.hardtanh(x, 0.1, 0.5, inplace=True).mean((2, 3))


def test_identities_go_and_operations_in_place_stay() -> None:
    model = InPlace().eval()
    wanted = model(EXAMPLE)
    graph_module = capture(model, EXAMPLE)
    drop_identities(graph_module, EXAMPLE)
    torch.testing.assert_close(graph_module(EXAMPLE), wanted)
    kinds = [type(part) for part in graph_module.children()]
    assert nn.ReLU in kinds and nn.Dropout not in kinds and nn.Identity not in kinds
