"""Cross-layer equalization against the equations of Nagel et al. 2019."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, tiny_network
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.graph.capture import capture
from mixmix.graph.equalize import (
    ChannelLimit,
    equalize_layers,
    equalizing_factors,
)
from mixmix.graph.fold import fold_batch_norms


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uneven(model: nn.Module) -> nn.Module:
    """The model with output channels of very different range."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.mul_(
                    draw(len(layer.weight)).exp().view(-1, *[1] * (layer.weight.ndim - 1))
                )
    return model.eval().requires_grad_(False)


def input_ranges(layer: nn.Conv2d | nn.Linear) -> list[float]:
    """Largest weight that meets each input channel, looked up one by one."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    per_group, outputs = layer.weight.shape[1], layer.weight.shape[0] // groups
    return [
        float(layer.weight[g * outputs : (g + 1) * outputs, i].abs().max())
        for g in range(groups)
        for i in range(per_group)
    ]


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_ranges_are_the_geometric_mean_afterwards(groups: int) -> None:
    first = nn.Conv2d(3, 6, 3).requires_grad_(False)
    second = nn.Conv2d(6, 12, 3, groups=groups).requires_grad_(False)
    uneven(nn.Sequential(first, second))
    r1, r2 = first.weight.abs().amax((1, 2, 3)), torch.tensor(input_ranges(second))
    s = equalizing_factors(first.weight, second.weight, groups=groups)
    assert torch.allclose(r1 / s, (r1 * r2).sqrt())  # equation 11: r1 / s = r2 s
    assert torch.allclose(r2 * s, (r1 * r2).sqrt())


def test_dead_channels_stay() -> None:
    first, second = draw(3, 2), draw(4, 3, seed=1)
    first[0], second[:, 1] = 0, 0
    assert equalizing_factors(first, second)[:2].tolist() == [1, 1]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Identity, nn.PReLU])
def test_depthwise_between_pointwise_layers(activation: type[nn.Module]) -> None:
    layers = [nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 5, 1)]
    model = uneven(
        nn.Sequential(layers[0], activation(), layers[1], activation(), nn.Dropout(), layers[2])
    )
    x = 5 * draw(4, *INPUT_SHAPE)
    graph_module = capture(model, x)
    assert equalize_layers(graph_module, x, depthwise_only=True) == [("0", "2"), ("2", "5")]
    torch.testing.assert_close(graph_module(x), model(x), rtol=1e-4, atol=1e-4)
    first, middle, last = (graph_module.get_submodule(name) for name in ("0", "2", "5"))
    ranges = [first.weight.abs().amax((1, 2, 3)), torch.tensor(input_ranges(middle))]
    ranges.append(torch.tensor(input_ranges(last)))
    torch.testing.assert_close(ranges[0], ranges[1], rtol=5e-3, atol=0)
    torch.testing.assert_close(ranges[1], ranges[2], rtol=5e-3, atol=0)
    limits = [m for m in graph_module.modules() if isinstance(m, ChannelLimit)]
    assert len(limits) == (2 if activation is nn.ReLU6 else 0)


class Between(nn.Module):
    """Two layers, and a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(self.function(self.first(x)))
        return logits


@pytest.mark.parametrize(
    ("function", "num_limits"),
    [
        (torch.relu_, 0),
        (lambda x: x.clamp(min=0), 0),
        (lambda x: F.max_pool2d(x, 2).contiguous(), 0),
        (nn.Hardtanh(0, 0.5), 1),
        (lambda x: x.clamp(0, 2), 1),
        (lambda x: F.hardtanh(F.relu6(x), 0.0, max_val=3.0), 2),
    ],
)
def test_what_clamps_to_a_range_from_zero_separates_no_layers(
    function: Callable[[Tensor], Tensor], num_limits: int
) -> None:
    model, x = uneven(Between(function)), 5 * draw(4, *INPUT_SHAPE)
    graph_module = capture(model, x)
    assert equalize_layers(graph_module, x, depthwise_only=False) == [("first", "second")]
    torch.testing.assert_close(graph_module(x), model(x), rtol=1e-4, atol=1e-4)
    limits = [m for m in graph_module.modules() if isinstance(m, ChannelLimit)]
    assert len(limits) == num_limits


@pytest.mark.parametrize("family", sorted(NETWORKS))
def test_every_family_gives_the_same_outputs(family: str) -> None:
    model = uneven(tiny_network(family))
    example = draw(4, *INPUT_SHAPE)
    graph_module = capture(model, example)
    fold_batch_norms(graph_module, example)
    pairs = equalize_layers(graph_module, example, depthwise_only=False)
    other = draw(8, *INPUT_SHAPE, seed=5)
    torch.testing.assert_close(graph_module(other), model(other), rtol=1e-3, atol=1e-4)
    # All that a dense block makes is used twice; shuffling and gates stand between the others.
    assert bool(pairs) == (family not in ("concat", "shuffle"))


@pytest.mark.parametrize(
    "between",
    [nn.SiLU(), nn.Hardswish(), nn.GELU(), nn.Sigmoid(), nn.BatchNorm2d(6), nn.Hardtanh()],
)
def test_other_activations_separate_layers(between: nn.Module) -> None:
    model = uneven(nn.Sequential(nn.Conv2d(3, 6, 1), between, nn.Conv2d(6, 5, 1)))
    x = draw(4, *INPUT_SHAPE)
    assert equalize_layers(capture(model, x), x, depthwise_only=False) == []


def test_what_others_see_stays() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            return x + self.second(x)

    model, x = uneven(Branch()), draw(4, *INPUT_SHAPE)
    assert equalize_layers(capture(model, x), x, depthwise_only=False) == []


def test_layers_that_share_a_weight_are_left_alone() -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    model[4].weight = model[2].weight
    example = torch.randn(4, 3, 12, 12)
    graph_module = capture(model, example)
    assert equalize_layers(graph_module, example, depthwise_only=False) == []
