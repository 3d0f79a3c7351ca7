"""Units are cut only where rows are images, whatever the layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mixmix import (
    Prune,
    Quantize,
    QuantizeAware,
    ReconstructFeatures,
    ReconstructionSettings,
    TrainingSettings,
    compress,
    load,
)
from mixmix.compress.method import Method
from mixmix.graph.capture import capture

EXAMPLE = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class TokensFirst(nn.Module):
    """(T, N, C), as in ``nn.TransformerEncoderLayer`` by default."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 5)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(self.patch(x).flatten(2).permute(2, 0, 1)).mean(0))
        return logits


class TwoViews(nn.Module):
    """Test-time augmentation: 2 N rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(torch.cat([x, x.flip(3)])))))
        first, second = self.head(x.mean((2, 3))).chunk(2)
        return (first + second) / 2


class Windows(nn.Module):
    """N times the number of windows."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 16, 2, 2), nn.Linear(16, 5)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.patch(x).unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1)
        y = self.second(F.relu(self.first(windows.reshape(-1, 16, 16))))
        logits: Tensor = self.head(y.reshape(x.shape[0], -1, 16).mean(1))
        return logits


class MixedRows(nn.Module):
    """As many rows as images, which belong to others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.second(F.relu(self.first(x.flip(0)))))
        logits: Tensor = self.head(y.flip(0).mean((2, 3)))
        return logits


NETWORKS = [TokensFirst, TwoViews, Windows, MixedRows]


@pytest.mark.parametrize("network", NETWORKS)
def test_values_without_a_row_for_each_image_are_marked(network: type[nn.Module]) -> None:
    graph_module = capture(network().eval(), EXAMPLE)

    class Check(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value: object = super().run_node(n)
            if n.meta.get("images"):
                assert isinstance(value, Tensor)
                assert len(value) == 6
            return value

    Check(graph_module).run(torch.randn(6, 3, 16, 16))
    marked = [bool(node.meta["images"]) for node in graph_module.graph.nodes]
    assert marked[0] and not all(marked)
    assert marked[-1]  # the logits


METHODS: list[Method] = [
    Quantize("W4A8", views=0, reconstruction=ReconstructionSettings(iterations=4)),
    Prune(0.3, recovery=ReconstructFeatures(iterations=4, views=16)),
    QuantizeAware(
        Quantize("W8A8", views=0), held_out=0, training=TrainingSettings(steps=2, batch_size=8)
    ),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("count", [16, 40])  # as many images as tokens or windows, or not
def test_methods_compress_networks_of_other_layouts(
    network: type[nn.Module], method: Method, count: int
) -> None:
    torch.manual_seed(0)
    model = load(network(), input_shape=(3, 16, 16), mean=0.5, std=0.25)
    images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    compressed = compress(model, images, method)
    wanted = model(images)
    found = compressed.module((images - 0.5) / 0.25)
    assert float((found - wanted).norm() / wanted.norm()) < 0.5
