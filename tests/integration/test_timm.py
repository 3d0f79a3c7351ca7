"""Transformers and a ConvNeXt as timm builds them, from images to integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mixmix import ImageSet, ModelSpec, Quantize, ReconstructionSettings, compress, export
from mixmix.export.profile import kernel_profile
from mixmix.graph.quantized import QuantizedLayer

MODELS: dict[str, tuple[int, dict[str, Any]]] = {
    "vit_tiny_patch16_224": (32, {"img_size": 32, "embed_dim": 48, "depth": 2}),
    "deit_tiny_patch16_224": (32, {"img_size": 32, "embed_dim": 48, "depth": 2}),
    "swin_tiny_patch4_window7_224": (
        56,
        {"img_size": 56, "embed_dim": 24, "depths": (2, 1), "num_heads": (2, 4)},
    ),
    "convnext_atto": (32, {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
}


@pytest.mark.parametrize("name", MODELS)
def test_networks_of_timm(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    side, options = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10, **options).eval()
        # Fresh heads are nearly zero, and nearly equal logits would be put in any order.
        torch.nn.init.normal_(model.get_classifier().weight)
    spec = ModelSpec(
        name=name,
        source="module",
        input_shape=(3, side, side),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        num_classes=10,
    )
    pixels = torch.rand(32, 3, side, side, generator=torch.Generator().manual_seed(0))
    data = ImageSet(pixels, torch.arange(32) % 10, torch.full((32, 10), 0.1), {})
    method = Quantize(
        "W4A8", views=0, reconstruction=ReconstructionSettings(iterations=2, batch_size=8)
    )
    compressed = compress((model, spec), data, method, seed=0)
    assert any(isinstance(module, QuantizedLayer) for module in compressed.module.modules())
    skipped = {record.kind for record in compressed.records if record.action == "skipped"}
    assert not skipped & {"Linear", "Conv2d"}
    artifact = export(compressed, tmp_path / "m.onnx", probe=pixels, optimize_for="speed")
    assert artifact.agreement >= 85
    floats = kernel_profile(artifact.path, runs=1).float_layers
    assert {node.kind for node in floats} <= {"MatMul", "FusedMatMul"}
