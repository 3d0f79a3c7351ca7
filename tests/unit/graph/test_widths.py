"""Networks without the numbers of channels that their code names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.graph.widths import without_fixed_widths

EXAMPLE = torch.randn(4, 3, 8, 6, generator=torch.Generator().manual_seed(0))


class Padded(nn.Module):
    """A shortcut that subsamples and widens by zeros (He et al. 2016, option A), unevenly."""

    def __init__(self, before: int, behind: int) -> None:
        super().__init__()
        self.padding = (0, 0, 0, 0, before, behind)
        self.layer = nn.Conv2d(3, 3 + before + behind, 3, stride=(2, 1), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) + F.pad(x[:, :, ::2], self.padding)).mean((2, 3))


@pytest.mark.parametrize(("before", "behind"), [(1, 4), (2, 2), (0, 3), (3, 0)])
def test_padded_channels_lie_where_they_lay(before: int, behind: int) -> None:
    model = Padded(before, behind).eval()
    rewritten = without_fixed_widths(model, EXAMPLE)
    assert sum(isinstance(part, nn.Conv2d) for part in rewritten.modules()) == 2
    torch.testing.assert_close(rewritten(EXAMPLE), model(EXAMPLE))
