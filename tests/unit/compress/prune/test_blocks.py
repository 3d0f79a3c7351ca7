"""Which residual branches are removed first."""

from __future__ import annotations

import torch
from tiny_networks import NUM_CLASSES, tiny_images, tiny_spec
from torch import Tensor, nn

from mixmix import PruneBlocks, compress


class Branch(nn.Module):
    """``x + scale * f(x)`` with so many channels inside."""

    def __init__(self, inner: int, scale: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, inner, 3, padding=1, bias=False)
        self.second = nn.Conv2d(inner, 4, 3, padding=1, bias=False)
        self.second.weight.data.mul_(scale / inner**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


def test_loss_increase_is_relative_to_saved_cost() -> None:
    # The large branch increases the loss three times as much as the small one, and saves sixteen
    # times as much.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            Branch(2, 0.1),
            Branch(32, 0.17),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, NUM_CLASSES),
        ).eval()
    method = PruneBlocks(max_macs=0.95, recovery=())
    found = compress((model, tiny_spec("plain")), tiny_images(), method, seed=0)
    pruned = {record.name for record in found.records if record.action == "pruned"}
    assert pruned == {"2.first", "2.second"}
