"""Networks that PyTorch's exporter does not translate by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.runtimes.float_onnx import float_onnx_bytes
from mixmix.runtimes.session import OnnxSession


class Attention(nn.Module):
    """Attention with shared heads (N, L, E), with heads, or in windows."""

    def __init__(self, heads: tuple[int, ...], masked: bool) -> None:
        super().__init__()
        self.heads, self.last = heads, nn.Linear(8, 5)
        self.first = nn.Conv2d(3, 24, 4, 4)
        self.register_buffer("mask", torch.randn(16, 16) if masked else None)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.first(x).flatten(2).transpose(1, 2).chunk(3, -1)
        query, key, value = (t.reshape(len(x), *self.heads, -1, 8) for t in tokens)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)
        out: Tensor = self.last(found.flatten(1, -2).mean(1))
        return out


@pytest.mark.parametrize(
    ("heads", "masked"), [((), False), ((), True), ((1,), True), ((2, 2), False), ((1, 1), True)]
)
def test_attention_of_any_rank(heads: tuple[int, ...], masked: bool) -> None:
    torch.manual_seed(0)
    module = Attention(heads, masked).eval()
    images = torch.randn(3, 3, 16, 16)
    session = OnnxSession(float_onnx_bytes(module, (3, 16, 16), name="attention"))
    torch.testing.assert_close(session.run(images), module(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d((2, 3), 2, padding=1, ceil_mode=True),
        nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, (2, 1), padding=(0, 1), divisor_override=5),
        nn.AvgPool2d(2, 2, padding=1, ceil_mode=True, divisor_override=1),
    ],
)
def test_every_average_pool(pool: nn.Module) -> None:
    images = torch.randn(3, 3, 15, 16)
    session = OnnxSession(float_onnx_bytes(pool, (3, 15, 16), name="pool"))
    torch.testing.assert_close(session.run(images), pool(images), rtol=1e-4, atol=1e-5)
