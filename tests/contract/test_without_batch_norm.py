"""What every method promises, on a transformer and a ConvNeXt: networks without BatchNorm."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from mixmix import (
    Compressed,
    Distill,
    FineTune,
    ImageSet,
    MixedPrecision,
    ModelSpec,
    Prune,
    PruneChannels,
    Quantize,
    QuantizeAware,
    ReconstructFeatures,
    ReconstructionSettings,
    ReestimateBatchNorm,
    TrainingSettings,
    compress,
    export,
)
from mixmix.compress.method import Method
from mixmix.demo.layer_norm_architectures import ConvNext, VisionTransformer
from mixmix.export.profile import kernel_profile
from mixmix.graph.quantized import QuantizedLayer

NAMES = ("vit", "convnext")
networks = pytest.mark.parametrize("name", NAMES)
TRAINING = TrainingSettings(steps=2, batch_size=8)
RECOVERY = (
    ReestimateBatchNorm(),
    ReconstructFeatures(iterations=2, batch_size=8, views=64),
    FineTune(training=TRAINING),
)


@cache
def network(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "vit":
            return VisionTransformer(width=32, depth=2, num_heads=4).eval()
        return ConvNext(widths=(8, 16, 24), depths=(1, 1, 1)).eval()


def spec(name: str) -> ModelSpec:
    values = {"input_shape": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return ModelSpec(name=name, source="module", num_classes=10, label_set="ten", **values)  # type: ignore[arg-type]


def images(count: int = 32) -> ImageSet:
    pixels = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(count) % 10, torch.full((count, 10), 0.1), {})


def compressed(name: str, *methods: Method) -> Compressed:
    return compress((network(name), spec(name)), images(), methods, seed=0)


def quantize(bits: str, **options: object) -> Quantize:
    settings = ReconstructionSettings(iterations=3, batch_size=8)
    return Quantize(bits, views=0, reconstruction=settings, **options)  # type: ignore[arg-type]


@networks
@pytest.mark.parametrize("bits", ["W8A8", "W4A4"])
def test_quantized_and_exported(name: str, bits: str, tmp_path: Path) -> None:
    model = compressed(name, quantize(bits))
    layers = [m for m in network(name).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    integers = [m for m in model.module.modules() if isinstance(m, QuantizedLayer)]
    assert len(integers) == len(layers)
    artifact = export(model, tmp_path / "m.onnx", probe=images().images, optimize_for="speed")
    assert artifact.agreement >= 90
    profile = kernel_profile(artifact.path, runs=1)
    assert all(node.kind in ("MatMul", "FusedMatMul") for node in profile.float_layers)
    assert len(profile.float_layers) == (4 if name == "vit" else 0)


@networks
def test_records_say_why_something_stays_in_floats(name: str) -> None:
    records = {record.name: record for record in compressed(name, quantize("W8A8")).records}
    for path, module in network(name).named_modules():
        if isinstance(module, nn.LayerNorm):
            assert records[path].action == "skipped"
            assert "stays in float" in records[path].reason
    products = [record for record in records.values() if record.kind == "matmul"]
    assert len(products) == (4 if name == "vit" else 0)
    assert all("matmul of activations stays in float" in record.reason for record in products)


@networks
@pytest.mark.parametrize(
    "method",
    [
        Prune(0.5, between=(), recovery=RECOVERY),
        PruneChannels(max_macs=0.7, num_images=8, recovery=RECOVERY),
        quantize("W4A8", equalize=True, correct_bias=True),
        MixedPrecision(max_size_ratio=0.25, num_images=8, quantize=quantize("W8A8")),
        QuantizeAware(quantize("W4A4"), training=TRAINING, held_out=4),
    ],
    ids=lambda method: type(method).__name__,
)
def test_every_method_works(name: str, method: Method) -> None:
    before = {key: value.clone() for key, value in network(name).state_dict().items()}
    model = compressed(name, method)
    with torch.no_grad():
        logits = model.module(images().images)
    assert logits.shape == (32, 10) and bool(logits.isfinite().all())
    after = network(name).state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(record.reason for record in model.records if record.action == "skipped")


@networks
def test_students_are_trained(name: str) -> None:
    model = compress("bundled:resnet", images(), Distill(network(name), training=TRAINING), seed=0)
    assert {record.action for record in model.records} == {"trained"}
