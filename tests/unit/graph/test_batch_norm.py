"""Layers that are BatchNorm by another name are BatchNorm everywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import Model, load
from mixmix.graph.capture import capture
from mixmix.graph.fold import fold_batch_norms
from mixmix.graph.shared import share_graph

ops = pytest.importorskip("torchvision.ops")
layers = pytest.importorskip("timm.layers")


class Frozen(nn.Module):
    """As in DETR: an epsilon in the code, tensors as buffers."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self._eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            self.register_buffer(name, torch.full((channels,), value))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self._eps).rsqrt()  # type: ignore[operator]
        shift = self.bias - self.running_mean * scale  # type: ignore[operator]
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


class Activated(Frozen):
    """As InPlaceABN: with an activation function."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)  # type: ignore[arg-type]
        return F.leaky_relu(y, 0.01)


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "plain": nn.BatchNorm2d,
    "lazy": lambda channels: nn.LazyBatchNorm2d(),
    "synchronized": nn.SyncBatchNorm,
    "torchvision's frozen": ops.FrozenBatchNorm2d,
    "DETR's frozen": Frozen,
    "frozen without epsilon": lambda channels: Frozen(channels, eps=0.0),
    "with activation": Activated,
    "timm's": layers.BatchNormAct2d,
    "timm's frozen": layers.FrozenBatchNormAct2d,
    "timm's synchronized": layers.SyncBatchNormAct,
}


def network(kind: str) -> nn.Module:
    make = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            make(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, bias=False),
            make(6),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        ).eval()
        model(torch.rand(2, 3, 8, 8))
        with torch.no_grad():
            for layer in model[1], model[4]:
                for name in ("weight", "bias", "running_mean", "running_var"):
                    getattr(layer, name).copy_(torch.rand(6) + 0.1)
    return model


def loaded(kind: str) -> Model:
    return load(network(kind), input_shape=(3, 8, 8), mean=0.5, std=0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str) -> None:
    original, model = network(kind), loaded(kind)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(images), original((images - 0.5) / 0.25))
    assert len(model.batch_norms) == len(model.observe(images).statistics) == 2
    graph = capture(model.module, images)
    assert fold_batch_norms(graph, images) == {"1": "0", "4": "3"}
    assert share_graph(model.module, images).following_norms() == {"0": "1", "3": "4"}
    names = {name for name in original.state_dict() if "num_batches" not in name}
    assert names <= set(model.module.state_dict())
    assert type(original[1]) is type(network(kind)[1])  # the caller's is not changed


class Tokens(nn.Module):
    def __init__(self, over_features: bool) -> None:
        super().__init__()
        self.linear, self.over_features = nn.Linear(6, 6), over_features
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x.mean(2).transpose(1, 2))  # (N, tokens, 6)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2) if self.over_features else self.norm(x)
        out: Tensor = self.head(x.mean(1))
        return out


@pytest.mark.parametrize("over_features", [True, False])
def test_over_tokens(over_features: bool) -> None:
    model = load(Tokens(over_features), input_shape=(6, 6, 6), mean=0.5, std=0.25)
    images = torch.rand(3, 6, 6, 6, generator=torch.Generator().manual_seed(1))
    (seen,) = model.observe(images).statistics
    with torch.no_grad():
        x = model.module.linear(((images - 0.5) / 0.25).mean(2).transpose(1, 2))  # type: ignore[operator]
    kept = 2 if over_features else 1
    var, mean = torch.var_mean(x, [dim for dim in range(3) if dim != kept], correction=0)
    torch.testing.assert_close((seen.mean, seen.var), (mean, var))
    assert share_graph(model.module, images).following_norms() == {}
