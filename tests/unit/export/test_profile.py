"""Which kernels a file runs in, against what is known of small networks."""

from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec

from mixmix import Compressed, ImageSet, Quantize, compress, export
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.demo.layer_norm_architectures import VisionTransformer
from mixmix.errors import InputError
from mixmix.export.profile import KernelProfile, kernel_profile
from mixmix.graph.costs import count_macs
from mixmix.models import ModelSpec


def profile(folder: Path, family: str, bits: str | None, **options: str) -> KernelProfile:
    model = Compressed(tiny_network(family), tiny_spec(family))
    if bits is not None:
        images = torch.rand(32, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
        soft = torch.full((32, NUM_CLASSES), 1 / NUM_CLASSES)
        data = ImageSet(images, torch.arange(32) % NUM_CLASSES, soft, {})
        method = Quantize(bits, reconstruction=ReconstructionSettings(iterations=0))
        model = compress((model.module, model.spec), data, method, seed=0)
    artifact = export(model, folder / "m.onnx", **options)  # type: ignore[arg-type]
    return kernel_profile(artifact.path, runs=1)


@pytest.mark.parametrize("family", ["plain", "residual", "depthwise"])
def test_all_layers_of_8_bits_run_as_integers(family: str, tmp_path: Path) -> None:
    found = profile(tmp_path, family, "W8A8")
    convolutions = [node for node in found.layers if "Conv" in node.kind]
    assert {node.kind for node in convolutions} == {"QLinearConv"}
    assert [node.kind for node in found.layers[-1:]] == ["QGemm"] and not found.float_layers
    assert found.integer_mac_fraction == 1 and 0 < found.integer_time_fraction < 1


def test_float_models_have_no_integer_kernels(tmp_path: Path) -> None:
    found = profile(tmp_path, "plain", None)
    assert found.integer_mac_fraction == 0 and found.float_layers == found.layers
    # Float kernels pad channels to whole blocks.
    assert sum(node.macs for node in found.nodes) >= count_macs(tiny_network("plain"), INPUT_SHAPE)


def test_operations_are_counted(tmp_path: Path) -> None:
    found = profile(tmp_path, "plain", "W8A8")
    assert sum(node.macs for node in found.nodes) == count_macs(tiny_network("plain"), INPUT_SHAPE)


@pytest.mark.parametrize("bits", ["W4A8", "W4A4", "W2A4"])
def test_low_bits_run_as_integers_if_exported_for_speed(bits: str, tmp_path: Path) -> None:
    assert profile(tmp_path, "plain", bits).integer_mac_fraction < 0.6
    assert profile(tmp_path, "plain", bits, optimize_for="speed").integer_mac_fraction == 1


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ONNX file"):
        kernel_profile(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match="at least 1, got 0 and 5"):
        kernel_profile(tmp_path / "absent.onnx", batch_size=0)


def test_products_within_attention_are_counted_for_each_head(tmp_path: Path) -> None:
    network = VisionTransformer(width=16, depth=1, num_heads=4).eval()
    spec = ModelSpec(
        name="vit",
        source="module",
        input_shape=(3, 32, 32),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        num_classes=10,
    )
    artifact = export(Compressed(network, spec), tmp_path / "m.onnx")
    found = kernel_profile(artifact.path, runs=1)
    products = sum(node.macs for node in found.nodes if "Conv" not in node.kind)
    # qkv and proj, both products of 64 x 64 tokens, fc1 and fc2, head.
    assert products == 64 * 4 * 16**2 + 2 * 64**2 * 16 + 64 * 4 * 16**2 + 160
