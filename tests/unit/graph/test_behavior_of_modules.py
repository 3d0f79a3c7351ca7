"""What modules do besides what their class and weights say is in their graphs."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import compress, load
from mixmix.errors import CaptureError
from mixmix.graph.capture import capture
from mixmix.graph.fold import fold_batch_norms
from mixmix.graph.simplify import drop_identities, write_out_silu

EXAMPLE = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """A classifier whose middle is a function of (network, features)."""

    def __init__(self, middle: Callable[[Any, Tensor], Tensor] = lambda _, x: F.relu(x)) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)
        self.relu, self.silu = nn.ReLU(inplace=True), nn.SiLU(inplace=True)
        self.register_buffer("count", torch.zeros(()))
        self.middle = middle
        nn.init.normal_(self.norm.running_mean)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.middle(self, self.norm(self.conv(x))).mean((2, 3)))
        return logits


def relu_unassigned(network: Network, x: Tensor) -> Tensor:
    F.relu_(x)
    return network.second(x)


def module_unassigned(network: Network, x: Tensor) -> Tensor:
    network.relu(x)
    return network.second(x)


def silu_unassigned(network: Network, x: Tensor) -> Tensor:
    network.silu(x)
    return network.second(x)


def method_unassigned(network: Network, x: Tensor) -> Tensor:
    x.add_(network.second(x))
    return x


def shortcut_sees_the_change(network: Network, x: Tensor) -> Tensor:
    return network.second(F.relu(x, inplace=True)) + x


def augmented_assignment(network: Network, x: Tensor) -> Tensor:
    before = x
    x += network.second(x)
    return x * before


def item_assigned(network: Network, x: Tensor) -> Tensor:
    y = network.second(x)
    y[:, 0] = 0
    return y


def slice_changed(network: Network, x: Tensor) -> Tensor:
    y = network.second(x)
    y[:, :4].mul_(3.0)
    return y


def view_changed(network: Network, x: Tensor) -> Tensor:
    x.flatten(2).clamp_(min=0)
    return network.second(x)


def chunk_changed(network: Network, x: Tensor) -> Tensor:
    first, _ = x.chunk(2, 1)
    first.relu_()
    return network.second(x)


def written_into(network: Network, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, ::2] = x[:, ::2].relu()
    return network.second(y)


def counting(network: Network, x: Tensor) -> Tensor:
    network.count += 1
    return network.second(x)


IN_PLACE = [
    relu_unassigned,
    module_unassigned,
    silu_unassigned,
    method_unassigned,
    shortcut_sees_the_change,
    augmented_assignment,
    item_assigned,
    slice_changed,
    view_changed,
    chunk_changed,
    written_into,
    counting,
]


def assert_graph_is_network(network: nn.Module) -> None:
    """Through all rewriting, on a batch of another size."""
    graph_module = capture(network, EXAMPLE)
    drop_identities(graph_module, EXAMPLE)
    fold_batch_norms(graph_module, EXAMPLE)
    write_out_silu(graph_module)
    other = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            graph_module(other.clone()), network(other.clone()), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("middle", IN_PLACE, ids=lambda function: function.__name__)
def test_changes_in_place_are_in_the_graph(middle: Callable[[Any, Tensor], Tensor]) -> None:
    assert_graph_is_network(Network(middle))


class ChangesItsInput(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5).mul_(3.0))


def test_networks_may_change_their_input() -> None:
    assert_graph_is_network(ChangesItsInput())


def test_graphs_change_nothing_in_place() -> None:
    graph_module = capture(ChangesItsInput(method_unassigned), EXAMPLE)
    given = EXAMPLE.clone()
    graph_module(given)
    assert torch.equal(given, EXAMPLE)


def doubled_before(network: Network) -> None:
    network.head.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))


def centered_after(network: Network) -> None:
    network.conv.register_forward_hook(lambda _, __, y: y - y.mean((2, 3), keepdim=True))


def scaled_in_place(network: Network) -> None:
    network.norm.register_forward_hook(lambda _, __, y: y.mul_(2) and None)


def of_the_network(network: Network) -> None:
    network.register_forward_hook(lambda _, __, y: y * y)


def set_forward(network: Network) -> None:
    network.conv.forward = MethodType(  # type: ignore[method-assign]
        lambda layer, x: F.conv2d(x, layer.weight, layer.bias, 2, 1).abs(), network.conv
    )


def set_forward_of_the_network(network: Network) -> None:
    network.forward = MethodType(  # type: ignore[method-assign]
        lambda self, x: Network.forward(self, x) ** 2, network
    )


def around_the_forward_before(network: Network) -> None:
    before = network.head.forward
    network.head.forward = lambda x: 3 * before(x)  # type: ignore[method-assign]


HOOKS = [
    doubled_before,
    centered_after,
    of_the_network,
    set_forward,
    set_forward_of_the_network,
    around_the_forward_before,
]


@pytest.mark.parametrize("change", HOOKS, ids=lambda function: function.__name__)
def test_hooks_and_set_methods_are_in_the_graph(change: Callable[[Network], None]) -> None:
    network = Network()
    change(network)
    assert_graph_is_network(network)


@pytest.mark.parametrize("change", HOOKS, ids=lambda function: function.__name__)
def test_compressed_networks_do_what_hooks_do(change: Callable[[Network], None]) -> None:
    network = Network()
    change(network)
    images = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = load(network, input_shape=(3, 16, 16), mean=0.5, std=0.25)
    compressed = compress(model, images, "W8A8")
    inputs = (images - 0.5) / 0.25
    with torch.no_grad():
        wanted, found = network(inputs), compressed.module(inputs)
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x.flatten(1), training=True)


class Counts(nn.Module):
    """Its outputs depend on how often it was called, and have a bias that hides it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.flatten(1) * (1 + self.calls / 10) + 50


class Batch(nn.Module):
    """Takes batches of four only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(4, 768)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Random(), "other outputs when it is called again"),
        (Counts(), "other outputs when it is called again"),
        (Batch(), "cannot take 5 images"),
        (nn.Sequential(nn.Flatten(), nn.Threshold(1e9, torch.inf)), "NaN or infinite"),
        (nn.ModuleDict({"a": nn.Flatten()}), "cannot take 4 images"),
    ],
)
def test_refusals_say_what_is_wrong(network: nn.Module, reason: str) -> None:
    with pytest.raises(CaptureError, match=reason):
        capture(network.eval(), EXAMPLE)
