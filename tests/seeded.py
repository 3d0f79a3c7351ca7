"""Random numbers for tests, the same ones each time."""

from __future__ import annotations

import torch
from torch import Tensor


def tensor(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
