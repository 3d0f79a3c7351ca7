"""Capture by both tracers, folding, and what cannot be captured."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, tiny_network
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mixmix.errors import CaptureError
from mixmix.graph.capture import capture
from mixmix.graph.fold import fold_batch_norms
from mixmix.graph.shared import share_graph

EXAMPLE = torch.randn(4, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))


def layers(graph_module: fx.GraphModule, kind: type[nn.Module]) -> list[str]:
    return [
        str(node.target)
        for node in graph_module.graph.nodes
        if node.op == "call_module" and isinstance(graph_module.get_submodule(node.target), kind)
    ]


@pytest.mark.parametrize("family", sorted(NETWORKS))
def test_folding_keeps_the_outputs_and_leaves_no_batch_norm(family: str) -> None:
    model = tiny_network(family)
    graph_module = capture(model, EXAMPLE)
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    folded = fold_batch_norms(graph_module, EXAMPLE)
    assert sorted(folded) == sorted(norms)
    assert not layers(graph_module, nn.BatchNorm2d)
    other = torch.randn(3, *INPUT_SHAPE)
    assert torch.allclose(graph_module(other), model(other), rtol=1e-4, atol=1e-5)


class Functional(nn.Module):
    """Layers called as functions, and a condition on a shape: only torch.export follows both."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.ones(4, 1, 1) * 1.5)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 2:
            raise ValueError("too small")
        x = F.conv2d(x, self.convolution.weight, stride=2, padding=1)
        x = F.relu(self.norm(x) * self.scale)
        return F.linear(x.mean((2, 3)), self.head.weight, self.head.bias)


def test_functional_layers_become_modules() -> None:
    model = Functional().eval()
    model.norm.running_mean.fill_(0.3)
    graph_module = capture(model, EXAMPLE)
    assert layers(graph_module, nn.Conv2d) == ["convolution"]
    assert layers(graph_module, nn.Linear) == ["head"]
    assert fold_batch_norms(graph_module, EXAMPLE) == {"norm": "convolution"}
    other = torch.randn(7, *INPUT_SHAPE)
    assert torch.allclose(graph_module(other), model(other), atol=1e-5)


class FunctionalNorm(Functional):
    """BatchNorm by the function of ``torch``, which asks for all of its arguments."""

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        given = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        x = torch.batch_norm(self.convolution(x), *given, False, 0.1, norm.eps, False)
        return F.linear(x.mean((2, 3)), self.head.weight, self.head.bias)


def test_batch_norm_of_torch_becomes_a_module() -> None:
    model = FunctionalNorm().eval()
    graph_module = capture(model, EXAMPLE)
    assert fold_batch_norms(graph_module, EXAMPLE) == {"norm": "convolution"}
    assert torch.allclose(graph_module(EXAMPLE), model(EXAMPLE), atol=1e-5)


class Asking(nn.Module):
    """Reads a weight beside its layer, as positional encodings do to find the device."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(4).to(self.conv.weight.device)
        logits: Tensor = self.conv(x).mean((2, 3)) * ones
        return logits


def test_layers_can_be_replaced_where_their_weights_are_read_elsewhere() -> None:
    model = Asking().eval()
    graph_module = capture(model, EXAMPLE)
    assert layers(graph_module, nn.Conv2d) == ["conv"]
    expected = graph_module(EXAMPLE)
    graph_module.conv = nn.Sequential(graph_module.conv)
    torch.testing.assert_close(graph_module(EXAMPLE), expected)


class InContexts(nn.Module):
    """Layers and constants inside contexts, one of them inside another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.classifier = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        with torch.no_grad():
            largest = features.amax((2, 3))
        with torch.autocast(x.device.type, enabled=False):
            scaled = self.classifier(largest.float()) * torch.tensor([1.0, 2.0, 3.0, 4.0])
            with torch.no_grad():
                total = scaled.sum(1, keepdim=True)
        if x.ndim != 4:
            raise ValueError(x.shape)
        return scaled + total


def test_what_is_done_in_contexts_is_in_the_graph() -> None:
    model = InContexts().eval()
    graph_module = capture(model, EXAMPLE)
    assert layers(graph_module, nn.Conv2d) == ["conv"]
    assert layers(graph_module, nn.Linear) == ["classifier"]
    other = torch.randn(3, *INPUT_SHAPE)
    torch.testing.assert_close(graph_module(other), model(other))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(this, x: Tensor) -> Tensor:
        return this.linear(x)[:, : int(x.abs().amax().item())]


class Leaving(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy())


class Shaped(nn.Module):
    """torch.fx stops here, torch.export goes on."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[1] == 4 else -x


def test_dependence_on_values_is_refused_with_both_reasons(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(CaptureError, match="Branching cannot be captured.*torch.fx.*torch.export"):
        capture(Branching(), EXAMPLE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [Branching, Counting, Leaving])
def test_the_innermost_module_that_fails_is_named(kind: type[nn.Module]) -> None:
    head = nn.Sequential()
    head.add_module("norm", nn.LayerNorm(4))
    head.add_module("shaped", Shaped())
    head.add_module("router", kind())
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)
    model = nn.Sequential(*layers)
    model.add_module("head", head)
    pattern = rf"because of head\.router \({kind.__name__}\), at `return .*\(line \d+ of test_cap"
    with pytest.raises(CaptureError, match=pattern):
        capture(model.eval().requires_grad_(False), EXAMPLE)


def test_a_shared_layer_is_not_folded() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 3, padding=1)
            self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.convolution(torch.relu(self.first(self.convolution(x)))))

    model = Shared().eval()
    model.second.running_mean.fill_(1.0)
    graph_module = capture(model, EXAMPLE)
    assert fold_batch_norms(graph_module, EXAMPLE) == {}
    assert torch.allclose(graph_module(EXAMPLE), model(EXAMPLE))


def test_the_captured_model_is_a_copy() -> None:
    model = tiny_network("residual")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold_batch_norms(capture(model, EXAMPLE), EXAMPLE)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_constants_of_five_axes_do_not_hinder_channels_last() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.arange(4.0).view(1, 4, 1, 1, 1)
            return (self.convolution(x).unsqueeze(4) * mask).flatten(1)

    model = Masked().eval()
    graph_module = capture(model, EXAMPLE).to(memory_format=torch.channels_last)
    torch.testing.assert_close(graph_module(EXAMPLE), model(EXAMPLE))


class TokenNorm(nn.Module):
    """BatchNorm1d behind a linear layer: over tokens, or over channels of (N, C) or (N, C, L)."""

    def __init__(self, tokens: int, channels: int = 16) -> None:
        super().__init__()
        self.patch, self.linear = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, channels)
        self.norm, self.head = nn.BatchNorm1d(tokens), nn.Linear(channels, 5)
        self.last = nn.BatchNorm1d(5, affine=False)
        for norm in (self.norm, self.last):
            assert norm.running_mean is not None and norm.running_var is not None
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.linear(self.patch(x).flatten(2).transpose(1, 2)))
        logits: Tensor = self.last(self.head(F.relu(x).mean(1)))
        return logits


@pytest.mark.parametrize("channels", [16, 24])
def test_batch_norm_over_tokens_stays(channels: int) -> None:
    tokens = (INPUT_SHAPE[1] // 4) * (INPUT_SHAPE[2] // 4)
    model = TokenNorm(tokens, tokens if channels == 16 else channels).eval()
    graph_module = capture(model, EXAMPLE)
    assert fold_batch_norms(graph_module, EXAMPLE) == {"last": "head"}
    other = torch.randn(3, *INPUT_SHAPE)
    torch.testing.assert_close(graph_module(other), model(other), rtol=1e-4, atol=1e-5)
    assert share_graph(model, EXAMPLE).following_norms() == {"head": "last"}
