"""What quantization promises, on networks of every family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, NUM_CLASSES, tiny_network, tiny_spec
from torch import Tensor

from mixmix import Compressed, ImageSet, Quantize, compress, export
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.errors import InputError
from mixmix.graph.equalize import ChannelLimit
from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer
from mixmix.models.model import normalize
from mixmix.runtime import compiled

SETTINGS = ("W8A8", "W4A8", "W4A4", "W2A4")
families = pytest.mark.parametrize("family", sorted(NETWORKS))


def images(count: int = 32) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, *INPUT_SHAPE, generator=generator)
    labels = torch.arange(count) % NUM_CLASSES
    return ImageSet(pixels, labels, torch.full((count, NUM_CLASSES), 1 / NUM_CLASSES), {})


def quantized(family: str, bits: str, *, iterations: int = 5, **options: object) -> Compressed:
    method = Quantize(
        bits,
        reconstruction=ReconstructionSettings(iterations=iterations, batch_size=8),
        **options,  # type: ignore[arg-type]
    )
    return compress((tiny_network(family), tiny_spec(family)), images(), method, seed=0)


def logits(model: torch.nn.Module, family: str) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(normalize(images().images, tiny_spec(family)))
    return out


@families
@pytest.mark.parametrize("bits", SETTINGS)
def test_every_layer_is_quantized_and_close(family: str, bits: str) -> None:
    compressed = quantized(family, bits)
    layers = [m for m in compressed.module.modules() if isinstance(m, QuantizedLayer)]
    expected = [
        m
        for m in tiny_network(family).modules()
        if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    ]
    assert len(layers) == len(expected)
    assert all(int(m.integers.abs().max()) <= 2 ** (m.bits - 1) for m in layers if m.bits > 3)
    assert all(len(m.integers[0].unique()) <= 2**m.bits for m in layers)
    out = logits(compressed.module, family)
    assert out.shape == (32, NUM_CLASSES)
    if bits == "W8A8":
        original = logits(tiny_network(family), family)
        assert float((out - original).norm() / original.norm()) < 0.05


@families
def test_records_name_every_layer_with_parameters(family: str) -> None:
    compressed = quantized(family, "W4A4")
    named = {
        name
        for name, module in tiny_network(family).named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }
    assert {record.name for record in compressed.records} == named
    quantized_records = [r for r in compressed.records if r.action == "quantized"]
    assert quantized_records[0].weight_bits == quantized_records[-1].weight_bits == 8
    assert all(r.weight_bits == r.activation_bits == 4 for r in quantized_records[1:-1])
    assert all(r.reason for r in compressed.records if r.action != "quantized")
    assert not any(r.action == "skipped" for r in compressed.records)


@families
def test_callers_model_is_unchanged_and_the_seed_decides(family: str) -> None:
    model = tiny_network(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    method = Quantize("W4A4", reconstruction=ReconstructionSettings(iterations=5, batch_size=8))
    first = compress((model, tiny_spec(family)), images(), method, seed=3)
    torch.rand(7)  # draws elsewhere must not matter
    second = compress((model, tiny_spec(family)), images(), method, seed=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    one, other = first.module.state_dict(), second.module.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@families
@pytest.mark.parametrize("bits", ("W8A8", "W2A4"))
def test_exports_to_a_file_that_agrees(
    family: str, bits: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    artifact = export(quantized(family, bits), path, probe=images(64).images)
    assert artifact.agreement >= 98


@families
def test_named_layers_have_bits_of_their_own(family: str) -> None:
    names = [r.name for r in quantized(family, "W4A4").records if r.action == "quantized"]
    chosen = {names[0]: "W3A8", names[1]: "w2a4"}
    compressed = quantized(family, "W4A4", layer_bits=chosen)
    bits = {r.name: r.weight_bits for r in compressed.records if r.action == "quantized"}
    expected = dict.fromkeys(names, 4) | {names[0]: 3, names[1]: 2, names[-1]: 8}
    assert bits == expected
    assert compressed.settings[0]["layer_bits"] == {names[0]: "W3A8", names[1]: "W2A4"}


def test_unknown_layers_are_refused_with_the_nearest_names() -> None:
    with pytest.raises(InputError, match=r"called 'features\.2'.*are '2'"):
        quantized("no-batch-norm", "W4A4", layer_bits={"features.2": "W2A4"})


def test_settings_with_bits_of_layers_hash_and_compare() -> None:
    method = Quantize(layer_bits={"a": "w2a8"})
    assert method == Quantize(layer_bits={"a": "W2A8"}) != Quantize()
    assert hash(method) == hash(Quantize(layer_bits={"a": "W2A8"}))
    with pytest.raises(InputError, match="bits must look like"):
        Quantize(layer_bits={"a": "W1A8"})


@families
def test_all_layers_alike_without_first_and_last(family: str) -> None:
    compressed = quantized(family, "W3A3", first_last_bits=None)
    bits = {r.weight_bits for r in compressed.records if r.action == "quantized"}
    assert bits == {3}


def test_reconstruction_lowers_the_error_of_units() -> None:
    nearest, learned = (quantized("residual", "W2A4", iterations=n) for n in (0, 150))
    errors = [
        [r.error for r in compressed.records if r.weight_bits == 2]
        for compressed in (nearest, learned)
    ]
    assert sum(errors[1]) < 0.8 * sum(errors[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["depthwise", "residual"])
def test_without_numba_reconstruction_does_the_same_more_slowly(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def errors() -> list[float]:
        records = quantized(family, "W2A4", iterations=60).records
        return [r.error for r in records if r.weight_bits == 2 and r.error is not None]

    fast = errors()
    monkeypatch.setattr(compiled, "numba", None)
    plain = errors()
    # Which values are dropped differs.
    assert sum(plain) == pytest.approx(sum(fast), rel=0.15)


def test_networks_of_one_channel_may_view_their_features_as_rows() -> None:
    class Rows(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1, 8 * 6 * 6)

    convolutions = [torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 8, 3)]
    model = torch.nn.Sequential(*convolutions, Rows(), torch.nn.Linear(8 * 6 * 6, 16))
    model.extend([torch.nn.ReLU(), torch.nn.Linear(16, NUM_CLASSES)])
    spec = replace(tiny_spec("plain"), input_shape=(1, 10, 10), mean=(0.5,), std=(0.5,))
    color = images()
    pixels = torch.rand(32, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    gray = ImageSet(pixels, color.labels, color.soft_labels, {})
    method = Quantize("W4A4", reconstruction=ReconstructionSettings(iterations=5, batch_size=8))
    compressed = compress((model.eval(), spec), gray, method, seed=0)
    assert [r.weight_bits for r in compressed.records] == [8, 4, 4, 8]


def test_activations_are_whole_steps() -> None:
    model = quantized("plain", "W4A4").module
    quantizer = next(
        m for m in model.modules() if isinstance(m, QuantizedActivation) and m.bits == 4
    )
    steps = quantizer(torch.rand(100) * 10) / quantizer.scale
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert len(steps.round().unique()) <= 16


@pytest.mark.parametrize("bits", ("W1A4", "W4", "int8", "W32A32", "W9A8", ""))
def test_refuses_unknown_bits(bits: str) -> None:
    with pytest.raises(InputError, match="bits must look like"):
        Quantize(bits)


@pytest.mark.parametrize("views", (-1, 0.5))
def test_refuses_views_that_are_no_count(views: float) -> None:
    with pytest.raises(InputError, match="views must be a whole number >= 0"):
        Quantize(views=views)  # type: ignore[arg-type]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", ("W8A8", "W2A4"))
def test_every_kind_of_scale_is_kept_by_the_file(
    bits: str, symmetric: bool, per_channel: bool, tmp_path: Path
) -> None:
    options = {"symmetric_weights": symmetric, "symmetric_activations": symmetric}
    compressed = quantized("no-batch-norm", bits, per_channel=per_channel, **options)
    for module in compressed.module.modules():
        if isinstance(module, QuantizedLayer):
            assert (module.zero_point is None) == symmetric
            assert per_channel or len(module.scale.unique()) == 1
            assert int(module.integers.max()) < 2 ** max(module.bits - 1, 3)
        if isinstance(module, QuantizedActivation) and symmetric:
            assert int(module.zero_point) in (0, 2 ** (module.bits - 1))
    artifact = export(compressed, tmp_path / "model.onnx", probe=images(64).images)
    assert artifact.agreement >= 98


@families
def test_equalized_and_corrected_networks_stay_close(family: str) -> None:
    model = tiny_network(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    method = Quantize(
        "W8A8",
        equalize=True,
        correct_bias=True,
        reconstruction=ReconstructionSettings(iterations=5, batch_size=8),
    )
    compressed = compress((model, tiny_spec(family)), images(), method, seed=0)
    original = logits(tiny_network(family), family)
    out = logits(compressed.module, family)
    assert float((out - original).norm() / original.norm()) < 0.05
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in compressed.module.modules())
    layers = [m for m in compressed.module.modules() if isinstance(m, QuantizedLayer)]
    assert all(layer.bias is not None for layer in layers)


def test_limits_of_channels_are_kept_by_the_file(tmp_path: Path) -> None:
    compressed = quantized("depthwise", "W4A4", equalize=True)
    assert any(isinstance(module, ChannelLimit) for module in compressed.module.modules())
    artifact = export(compressed, tmp_path / "model.onnx", probe=images(64).images)
    assert artifact.agreement >= 98


@pytest.mark.parametrize(
    ("family", "options", "equalized"),
    [
        ("depthwise", {}, False),
        ("depthwise", {"per_channel": False}, True),
        ("depthwise", {"per_channel": False, "equalize": False}, False),
        ("depthwise", {"equalize": True}, True),
    ],
)
def test_layers_are_equalized_where_depthwise_ones_have_one_scale(
    family: str, options: dict[str, bool], equalized: bool
) -> None:
    model = quantized(family, "W4A4", iterations=0, **options).module
    assert any(isinstance(module, ChannelLimit) for module in model.modules()) == equalized


@pytest.mark.parametrize(
    ("family", "options", "corrected"),
    [
        ("depthwise", {}, True),
        ("depthwise", {"correct_bias": False}, False),
        ("plain", {}, False),
        ("plain", {"correct_bias": True}, True),
    ],
)
def test_biases_are_corrected_where_a_layer_is_depthwise(
    family: str, options: dict[str, bool], corrected: bool
) -> None:
    plain = quantized(family, "W4A4", iterations=0, correct_bias=False)
    chosen = quantized(family, "W4A4", iterations=0, **options)
    pairs = zip(plain.module.modules(), chosen.module.modules(), strict=True)
    same = [
        torch.equal(a.bias, b.bias)
        for a, b in pairs
        if isinstance(a, QuantizedLayer) and isinstance(b, QuantizedLayer)
    ]
    assert all(same) != corrected
