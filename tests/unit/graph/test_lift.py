"""Layers of graphs of torch.export: weights of any owner, shared weights, computed ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import Prune, ReconstructFeatures, compress, load
from mixmix.graph.capture import capture
from mixmix.graph.shared import share_graph

EXAMPLE = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class OwnWeight(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv, self.name = nn.Conv2d(3, 8, 3), name
        self.register_parameter(name, nn.Parameter(torch.randn(5, 8)))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(self.conv(x)).mean((2, 3)), getattr(self, self.name))


class Blurred(nn.Module):
    """A filter that is a buffer of the network, and read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        self.register_buffer("filter", torch.ones(8, 1, 2, 2) / 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.conv(x), self.filter, stride=2, groups=8) * self.filter.sum()
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Dilated(nn.Module):
    """One weight, several dilations and biases; the module has a layer of its own inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3) * 0.1)
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        found = [F.conv2d(x, self.weight, padding=d, dilation=d) for d in (1, 2)]
        strided = F.conv2d(x, self.weight, self.bias, stride=2, padding=1)
        return sum(F.relu(each).mean((2, 3)) for each in (*found, strided))  # type: ignore[return-value]


class Tied(nn.Module):
    """Two convolutions, one weight, no biases; the condition asks for torch.export."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        self.first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 4:
            raise ValueError("too small")
        logits: Tensor = self.head(
            F.relu(self.second(F.relu(self.first(self.stem(x))))).mean((2, 3))
        )
        return logits


class ComputedBias(OwnWeight):
    def forward(self, x: Tensor) -> Tensor:
        weight = getattr(self, self.name)
        return F.linear(F.relu(self.conv(x)).mean((2, 3)), weight, weight.sum(1))


class ShiftedNorm(nn.Module):
    """BatchNorm with a bias and without a weight, and one of the statistics of the batch."""

    def __init__(self, *, training: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        nn.init.normal_(self.norm.bias)
        self.batch = training

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        mean, var = (None, None) if self.batch else (norm.running_mean, norm.running_var)
        x = F.batch_norm(self.conv(x), mean, var, None, norm.bias, self.batch)
        return F.relu(x).mean((2, 3))


NETWORKS = [
    *(OwnWeight(name) for name in ("weight", "w", "kernel", "head_weight", "conv_weight")),
    *(Blurred(), Dilated(), Tied(), ComputedBias("w")),
    *(ShiftedNorm(training=training) for training in (False, True)),
    nn.Sequential(nn.Identity(), Dilated()),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_layers_take_the_weights_and_arguments_of_their_calls(network: nn.Module) -> None:
    graph_module = capture(network.eval(), EXAMPLE)
    other = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(graph_module(other), network(other))


def test_each_layer_has_its_own_name() -> None:
    graph_module = capture(Tied().eval(), EXAMPLE)
    names = [str(n.target) for n in graph_module.graph.nodes if n.op == "call_module"]
    assert names == ["stem", "first", "second", "head"]


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (OwnWeight("w"), {"conv": "conv.weight", "w": "w"}),
        (
            Dilated(),
            dict.fromkeys(("weight", "weight_2", "bias"), "weight") | {"stem": "stem.weight"},
        ),
        (
            Tied(),
            {"stem": "stem.weight", "head": "head.weight"}
            | dict.fromkeys(("first", "second"), "first.weight"),
        ),
    ],
)
def test_graphs_share_weights_of_any_owner(network: nn.Module, names: dict[str, str]) -> None:
    shared = share_graph(network.eval(), EXAMPLE)
    assert shared.weight_names == names
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)
    torch.testing.assert_close(shared.graph_module(EXAMPLE), network(EXAMPLE))


@pytest.mark.parametrize(
    "network", [OwnWeight("w"), Dilated(), Tied()], ids=lambda n: type(n).__name__
)
def test_shared_weights_are_pruned_once_and_stay_masked(network: nn.Module) -> None:
    model = load(network, input_shape=(3, 16, 16), mean=0.5, std=0.25)
    images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    recovery = ReconstructFeatures(iterations=4, views=16)
    pruned = compress(model, images, Prune(0.5, recovery=recovery))
    parameters = dict(pruned.module.named_parameters())
    assert pruned.masks
    for name, mask in pruned.masks.items():
        assert bool((parameters[name][~mask] == 0).all())
    removed = sum(int((~mask).sum()) for mask in pruned.masks.values())
    assert removed / sum(mask.numel() for mask in pruned.masks.values()) == pytest.approx(
        0.5, abs=0.02
    )
