"""Layers with other than default attributes give what PyTorch's own give, whatever is done to them.

The oracle is the caller's network itself, run by PyTorch in eval mode.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_images, tiny_spec
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import Compressed, Model, Quantize, compress, export
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.errors import CaptureError
from mixmix.graph.capture import capture
from mixmix.graph.equalize import equalize_layers
from mixmix.graph.fold import fold_batch_norms
from mixmix.graph.layer_moments import grouped_rows, layer_columns
from mixmix.graph.pointwise import apply_layer, safe_gradients
from mixmix.graph.quantized import QuantizedLayer
from mixmix.graph.simplify import drop_identities, write_out_silu
from mixmix.models.fused import FusedBatchNorm, FusedNetwork
from mixmix.models.hooked import HookedNetwork
from mixmix.runtime.compiled import has_compiler

needs_numba = pytest.mark.skipif(not has_compiler(), reason="numba is not installed")
EPSILONS = (1e-5, 1e-3, 0.5)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """In eval mode; BatchNorm with statistics, factors and shifts of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().eval().requires_grad_(False)
        for part in model.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.running_var is not None:
                part.running_mean.normal_()  # type: ignore[union-attr]
                part.running_var.uniform_(0.02, 2.0)
                if part.affine:
                    part.weight.uniform_(0.5, 1.5)
                    part.bias.normal_()
    return model


class Odd(nn.Sequential):
    """No attribute that matters has its default."""

    def __init__(self, *, negative_slope: float = 0.3) -> None:
        super().__init__(
            nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(2, 1), dilation=(2, 1)),
            nn.BatchNorm2d(8, eps=0.3, momentum=0.7),
            nn.LeakyReLU(negative_slope),
            nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(8, 12, 3, padding="same", dilation=2, groups=4, bias=False),
            nn.BatchNorm2d(12, eps=1e-2, affine=False),
            nn.Hardtanh(-0.4, 2.5),
            nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
            nn.Conv2d(12, 12, 3, padding=1, groups=12),
            nn.BatchNorm2d(12, eps=0.2, momentum=None),
            nn.PReLU(12, init=0.1),
            nn.Conv2d(12, 6, 1, stride=2),
            nn.BatchNorm2d(6, track_running_stats=True, eps=0.05),
            nn.ReLU6(),
            nn.AdaptiveAvgPool2d((2, 1)),
            nn.Flatten(),
            nn.Linear(12, 10, bias=False),
            nn.BatchNorm1d(10, eps=0.1),
            nn.ELU(alpha=0.5),
            nn.Linear(10, NUM_CLASSES),
        )


class ByFunctions(Odd):
    """The same where torch.fx has to give up: layers are called as functions."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                x = F.batch_norm(
                    x,
                    layer.running_mean,
                    layer.running_var,
                    layer.weight,
                    layer.bias,
                    False,
                    0.0,
                    layer.eps,
                )
            else:
                x = layer(x)
        return x


INPUTS = draw(4, *INPUT_SHAPE)


@pytest.mark.parametrize("kind", [Odd, ByFunctions])
def test_captured_folded_and_equalized_networks_give_the_same(kind: type[nn.Module]) -> None:
    model = seeded(kind)
    wanted = model(INPUTS)
    graph = capture(model, INPUTS)
    torch.testing.assert_close(graph(INPUTS), wanted)
    folded = fold_batch_norms(graph, INPUTS)
    assert len(folded) == 5 and not any(
        isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in graph.modules()
    )
    torch.testing.assert_close(graph(INPUTS), wanted, rtol=1e-4, atol=1e-4)
    drop_identities(graph, INPUTS)
    pairs = equalize_layers(graph, INPUTS, depthwise_only=False)
    assert pairs
    other = draw(5, *INPUT_SHAPE, seed=1)
    torch.testing.assert_close(graph(other), model(other), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_folding_heeds_eps(eps: float, bias: bool, dense: bool) -> None:
    layers: tuple[nn.Module, ...] = (
        (nn.Flatten(), nn.Linear(768, 5, bias=bias), nn.BatchNorm1d(5, eps=eps))
        if dense
        else (nn.Conv2d(3, 5, 3, bias=bias), nn.BatchNorm2d(5, eps=eps), nn.Flatten())
    )
    model = seeded(lambda: nn.Sequential(*layers))
    graph = capture(model, INPUTS)
    assert len(fold_batch_norms(graph, INPUTS)) == 1
    torch.testing.assert_close(graph(INPUTS), model(INPUTS), rtol=1e-4, atol=1e-4)


def test_batch_norm_without_statistics_is_not_folded() -> None:
    layers = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, track_running_stats=False), nn.Flatten()
    model = seeded(lambda: nn.Sequential(*layers))
    graph = capture(model, INPUTS)
    assert fold_batch_norms(graph, INPUTS) == {}
    torch.testing.assert_close(graph(INPUTS), model(INPUTS))


def test_folding_that_loses_digits_is_refused() -> None:
    convolution, norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-12)
    model = seeded(lambda: nn.Sequential(convolution, norm, nn.Flatten()))
    with torch.no_grad():
        convolution.bias.fill_(1000.0)  # type: ignore[union-attr]
        convolution.weight.mul_(1e-6)
        norm.running_mean.fill_(1000.0)  # type: ignore[union-attr]
        norm.running_var.fill_(1e-12)  # type: ignore[union-attr]
    with pytest.raises(CaptureError, match="folding BatchNorm changed the outputs by"):
        fold_batch_norms(capture(model, INPUTS), INPUTS)


@needs_numba
@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("affine", [True, False])
def test_fused_batch_norm_heeds_eps_and_affine(eps: float, affine: bool) -> None:
    layer = seeded(lambda: nn.BatchNorm2d(6, eps=eps, affine=affine))
    z = draw(3, 6, 5, 4)
    y, mean, var = FusedBatchNorm(layer, (-0.5, 2.0))(z)
    torch.testing.assert_close(y, layer(z).clamp(-0.5, 2.0), rtol=1e-4, atol=1e-5)
    wanted = torch.var_mean(z, (0, 2, 3), correction=0)
    torch.testing.assert_close((var, mean), wanted, rtol=1e-4, atol=1e-5)


@needs_numba
@pytest.mark.parametrize("kind", [Odd, ByFunctions])
def test_fused_network_sees_what_pytorch_computes(kind: type[nn.Module]) -> None:
    model = seeded(kind)
    seen = FusedNetwork(model, INPUTS).observe(INPUTS)
    torch.testing.assert_close(seen.logits, model(INPUTS), rtol=1e-3, atol=1e-4)
    x, statistics = INPUTS, iter(seen.statistics)
    for layer in model:  # type: ignore[attr-defined]
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            dims = [dim for dim in range(x.ndim) if dim != 1]
            found = next(statistics)
            var, mean = torch.var_mean(x, dims, correction=0)
            torch.testing.assert_close(found.mean, mean, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(found.var, var, rtol=1e-3, atol=1e-4)
            assert torch.equal(found.running_mean, layer.running_mean)  # type: ignore[arg-type]
            assert torch.equal(found.running_var, layer.running_var)  # type: ignore[arg-type]
        x = layer(x)
    assert next(statistics, None) is None


def test_hooked_network_sees_no_batch_norm_without_statistics() -> None:
    layers = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, track_running_stats=False), nn.BatchNorm2d(5)
    model = seeded(lambda: nn.Sequential(*layers))
    assert len(HookedNetwork(model).observe(INPUTS).statistics) == 1


LAYERS = [
    lambda: nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"),
    lambda: nn.Conv2d(4, 6, (3, 2), padding=(1, 2), padding_mode="circular", stride=2),
    lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="replicate", dilation=2, groups=2),
    lambda: nn.Conv2d(4, 8, (2, 3), stride=(3, 2), padding=(0, 2), dilation=(1, 3), groups=4),
]


@pytest.mark.parametrize("build", LAYERS)
def test_columns_heed_padding_modes(build: Callable[[], nn.Conv2d]) -> None:
    layer, x = seeded(build), draw(2, 4, 9, 8)
    columns = layer_columns(layer, x)  # type: ignore[arg-type]
    rows = grouped_rows(layer, layer.weight)  # type: ignore[arg-type]
    found = torch.einsum("god,gnld->ngol", rows, columns).flatten(1, 2)
    wanted = (layer(x) - layer.bias.view(-1, 1, 1)).flatten(2)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_other_paddings_are_neither_equalized_nor_quantized(mode: str) -> None:
    layers = (
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, padding_mode=mode),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, NUM_CLASSES),
    )
    model = seeded(lambda: nn.Sequential(*layers))
    assert equalize_layers(capture(model, INPUTS), INPUTS, depthwise_only=False) == []
    quantize = Quantize("W8A8", reconstruction=ReconstructionSettings(iterations=0))
    found = compress((model, tiny_spec("plain")), tiny_images(), quantize, seed=0)
    kept = [m for m in found.module.modules() if isinstance(m, nn.Conv2d)]
    assert [layer.padding_mode for layer in kept] == [mode]
    wanted = model(INPUTS)
    assert float((found.module(INPUTS) - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 1, stride=2),
        nn.Conv2d(4, 6, 1, stride=(1, 3), groups=2),
        nn.Conv2d(4, 6, 1, stride=2, padding=1),
        nn.Conv2d(4, 8, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=4),
        nn.Conv2d(4, 6, 3, padding="same", dilation=3, bias=False),
    ],
)
def test_layers_with_other_weights_and_their_gradients(layer: nn.Conv2d) -> None:
    x = draw(2, 4, 9, 7)
    other = copy.deepcopy(layer)
    other.weight.data = draw(*layer.weight.shape, seed=1)
    found = apply_layer(layer, x, other.weight, other.bias)
    torch.testing.assert_close(found, other(x))
    (wanted,) = torch.autograd.grad(other(x).square().sum(), other.weight)
    with safe_gradients(other):
        (found,) = torch.autograd.grad(other(x).square().sum(), other.weight)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert "forward" not in vars(other)
    integers = torch.randint(-127, 128, layer.weight.shape, dtype=torch.int8)
    scale = torch.rand(len(integers)) + 0.5
    quantized = QuantizedLayer(layer, integers, scale, 8)
    other.weight.data = integers.float() * scale.view(-1, 1, 1, 1)
    if layer.bias is not None:
        other.bias.data = layer.bias.data  # type: ignore[union-attr]
    torch.testing.assert_close(quantized(x), other(x), rtol=1e-4, atol=1e-3)


@pytest.fixture(scope="module")
def odd_in_8_bits() -> tuple[nn.Module, Compressed]:
    model = seeded(Odd)
    quantize = Quantize("W8A8", reconstruction=ReconstructionSettings(iterations=0))
    return model, compress((model, tiny_spec("plain")), tiny_images(64), quantize, seed=0)


def test_eight_bits_are_near_the_floats(odd_in_8_bits: tuple[nn.Module, Compressed]) -> None:
    model, found = odd_in_8_bits
    x = (tiny_images(64).images - 0.5) / 0.25
    wanted = model(x)
    assert float((found.module(x) - wanted).norm() / wanted.norm()) < 0.1
    layers = [m for m in found.module.modules() if isinstance(m, QuantizedLayer)]
    assert len(layers) == 6
    first = layers[0].convolution
    assert first is not None
    assert tuple(first["stride"]) == (2, 1) and tuple(first["dilation"]) == (2, 1)


@pytest.mark.parametrize(("name", "kind"), [("odd.onnx", "onnx"), ("odd.pt2", "pt2e")])
def test_files_have_the_same_attributes(
    odd_in_8_bits: tuple[nn.Module, Compressed], name: str, kind: str, tmp_path: Path
) -> None:
    _, found = odd_in_8_bits
    artifact = export(found, tmp_path / name, format=kind, probe=tiny_images(64).images)
    assert artifact.logit_error < 0.05


def test_silu_is_written_out() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten()))
    graph = capture(model, INPUTS)
    write_out_silu(graph)
    assert not any(isinstance(part, nn.SiLU) for part in graph.modules())
    torch.testing.assert_close(graph(INPUTS), model(INPUTS))


def test_teachers_give_what_their_module_does() -> None:
    model = seeded(Odd)
    teacher = Model(model, tiny_spec("plain"))
    spec, images = tiny_spec("plain"), tiny_images(4).images
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    wanted = model((images - mean) / std)
    torch.testing.assert_close(teacher(images), wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(teacher.observe(images).logits, wanted, rtol=1e-3, atol=1e-4)
