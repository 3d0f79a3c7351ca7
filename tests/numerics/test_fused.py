"""The fused network against the plain one: the same logits, statistics and gradients."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, tiny_network, tiny_spec, tiny_teacher
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import Model
from mixmix.models.fused import FusedBatchNorm, FusedNetwork
from mixmix.models.hooked import HookedNetwork
from mixmix.models.observation import Observation
from mixmix.runtime.compiled import has_compiler

pytestmark = pytest.mark.skipif(not has_compiler(), reason="numba is not installed")


def random_batch(num_images: int = 6, shape: tuple[int, ...] = INPUT_SHAPE) -> Tensor:
    return torch.randn(num_images, *shape, generator=torch.Generator().manual_seed(0))


def gradient(network: HookedNetwork | FusedNetwork, inputs: Tensor) -> Tensor:
    """Of a loss that uses every output, each with weights of its own."""
    leaf = inputs.clone().requires_grad_()
    seen = network.observe(leaf)
    loss = _weighted(seen.logits)
    for statistics in seen.statistics:
        loss = loss + _weighted(statistics.mean) + _weighted(statistics.var)
    loss.backward()
    assert leaf.grad is not None
    return leaf.grad


def _weighted(values: Tensor) -> Tensor:
    weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(values.numel()))
    return (weights * values).sum()


def assert_same(seen: Observation, expected: Observation) -> None:
    torch.testing.assert_close(seen.logits, expected.logits, atol=1e-4, rtol=1e-4)
    assert len(seen.statistics) == len(expected.statistics)
    for own, other in zip(seen.statistics, expected.statistics, strict=True):
        for value, reference in zip(own, other, strict=True):
            torch.testing.assert_close(value, reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_network_sees_what_the_plain_one_sees(name: str) -> None:
    model = tiny_network(name).requires_grad_(False)
    inputs = random_batch()
    fused, plain = FusedNetwork(model, inputs[:2]), HookedNetwork(model)
    assert_same(fused.observe(inputs), plain.observe(inputs))
    own, reference = gradient(fused, inputs), gradient(plain, inputs)
    # A ReLU at zero may fall on either side.
    assert float((own - reference).norm() / reference.norm()) < 1e-3
    assert fused.agrees_with(plain.observe(inputs), inputs)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_tiny_teacher_is_fused(name: str) -> None:
    assert isinstance(tiny_teacher(name)._network_at(1.0), FusedNetwork)


@pytest.mark.parametrize("shape", [(5, 7, 3, 3), (2, 600, 4, 4), (64, 16, 32, 32), (9, 24), (1, 3)])
@pytest.mark.parametrize("bounds", [(0.0, float("inf")), (0.0, 6.0), (-1.0, 1.0)])
@pytest.mark.parametrize("joined", [False, True])
def test_layer_is_its_formula(
    shape: tuple[int, ...], bounds: tuple[float, float], joined: bool
) -> None:
    """Also where a row of the tables is cut short, and where threads share the rows."""
    generator = torch.Generator().manual_seed(1)
    layer = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1]).eval()
    layer.requires_grad_(False)
    for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
        assert tensor is not None
        tensor.data.uniform_(0.5, 1.5, generator=generator)
    z, shortcut, weight = (
        torch.randn(shape, generator=generator).requires_grad_(i < 2) for i in range(3)
    )

    def formula(z: Tensor, shortcut: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        y = layer(z) if shortcut is None else layer(z) + shortcut
        dims = [dim for dim in range(z.ndim) if dim != 1]
        var, mean = torch.var_mean(z, dims, correction=0)
        return y.clamp(*bounds), mean, var

    gradients = []
    for function in (FusedBatchNorm(layer, bounds), formula):
        z.grad = shortcut.grad = None
        y, mean, var = function(z, shortcut if joined else None)
        ((y * weight).sum() + mean.square().sum() + var.square().sum()).backward()
        gradients.append((y.detach(), mean.detach(), var.detach(), z.grad, shortcut.grad))
    for own, reference in zip(*gradients, strict=True):
        if reference is not None:
            torch.testing.assert_close(own, reference, atol=1e-4, rtol=1e-4)
        else:
            assert own is None


def test_moments_of_a_mean_far_from_zero_keep_their_precision() -> None:
    layer = nn.BatchNorm2d(8).eval()
    layer.running_mean.fill_(1000.0)  # type: ignore[union-attr]
    z = random_batch(4, (8, 9, 9)) + 1000
    _, mean, var = FusedBatchNorm(layer, (0.0, 1.0))(z)
    expected_var, expected_mean = torch.var_mean(z.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), expected_mean, atol=1e-3, rtol=1e-6)
    torch.testing.assert_close(var.double(), expected_var, atol=0, rtol=1e-4)


class _Shapes(nn.Module):
    """What must not be fused: another shape to add, an output used twice, a scaled addition."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = (
            norm(convolution(x))
            for norm, convolution in zip(self.norms, self.convolutions, strict=True)
        )
        broadcast = F.relu(first + x.mean((2, 3), keepdim=True))
        scaled = F.relu(torch.add(second, x, alpha=2))
        twice = F.relu(third) + third
        logits: Tensor = (broadcast + scaled + twice).mean((2, 3))
        return logits


def test_other_shapes_of_graphs_stay_right() -> None:
    model = _Shapes().eval().requires_grad_(False)
    inputs = random_batch()
    fused, plain = FusedNetwork(model, inputs[:2]), HookedNetwork(model)
    assert_same(fused.observe(inputs), plain.observe(inputs))
    torch.testing.assert_close(gradient(fused, inputs), gradient(plain, inputs))


class _Clamps(nn.Module):
    """What clamps behind BatchNorm, in other words than ``nn.ReLU``."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        y = [
            norm(convolution(x))
            for norm, convolution in zip(self.norms, self.convolutions, strict=True)
        ]
        clamped = (
            F.relu_(y[0]),
            y[1].clamp(0, 0.5),
            torch.clamp(y[2] + x, min=-0.5),
            F.hardtanh(y[3], -0.25, max_val=0.75),
            torch.clip(y[4], max=0.5),
        )
        logits: Tensor = torch.cat(clamped, 1).mean((2, 3))
        return logits


def test_all_that_clamps_is_fused() -> None:
    model = _Clamps().eval().requires_grad_(False)
    inputs = random_batch()
    fused, plain = FusedNetwork(model, inputs[:2]), HookedNetwork(model)
    infinity = float("inf")
    assert [layer.bounds for layer in fused._layers] == [
        (0, infinity),
        (0, 0.5),
        (-0.5, infinity),
        (-0.25, 0.75),
        (-infinity, 0.5),
    ]
    assert_same(fused.observe(inputs), plain.observe(inputs))
    torch.testing.assert_close(gradient(fused, inputs), gradient(plain, inputs))


def test_sequences_are_observed_in_the_plain_way() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Flatten(2), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(1)
    )
    model.append(nn.Linear(6 * 14 * 14, 4))
    teacher = Model(model, tiny_spec("plain"))
    assert isinstance(teacher._network_at(1.0), HookedNetwork)
    assert len(teacher.observe(torch.rand(2, *INPUT_SHAPE)).statistics) == 1


def test_same_bits_every_time_and_in_any_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    network = FusedNetwork(tiny_network("residual").requires_grad_(False), random_batch(2))
    expected = gradient(network, random_batch())
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: gradient(network, random_batch()), range(8)))
    assert all(torch.equal(each, expected) for each in found)
