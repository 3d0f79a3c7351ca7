"""Channels of trained and of well-known networks, from pruning to the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mixmix import (
    Compressed,
    ImageSet,
    ModelSpec,
    PruneChannels,
    Quantize,
    ReconstructFeatures,
    ReestimateBatchNorm,
    compress,
    evaluate,
    export,
    load,
    load_evaluation_pack,
)
from mixmix.compress.divergence import mean_divergence
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.demo.cifar10 import load_calibration_pack
from mixmix.models.model import normalize

NUM_CLASSES = 10
bundled = pytest.mark.parametrize("name", ["resnet", "mobilenetv2", "vgg", "vovnet"])


def data(count: int = 64) -> ImageSet:
    """Training images in place of synthetic ones, with labels that nothing here looks at."""
    labels = torch.zeros(count, dtype=torch.long)
    soft = torch.full((count, NUM_CLASSES), 1 / NUM_CLASSES)
    return ImageSet(load_calibration_pack()[:count], labels, soft, {})


def pruned(name: str, *more: Quantize, **options: object) -> Compressed:
    method = PruneChannels(**{"max_macs": 0.7, "recovery": ReestimateBatchNorm(), **options})  # type: ignore[arg-type]
    return compress(f"bundled:{name}", data(), [method, *more], seed=0)


@bundled
def test_files_run_without_the_code_of_the_network(name: str, tmp_path: Path) -> None:
    compressed = pruned(name)
    assert 0.6 < compressed.applied[0].results["macs_ratio"] <= 0.7
    artifact = export(compressed, tmp_path / "pruned.onnx", probe=data().images)
    # Of ten classes, before anything is done to recover.
    assert evaluate(artifact, load_evaluation_pack()).top1 > 40


def test_exported_programs_are_read_by_pytorch_alone(tmp_path: Path) -> None:
    path = tmp_path / "pruned.pt2"
    export(pruned("resnet"), path, format="pt2e", probe=data().images)
    code = (
        "import sys, torch\n"
        f"program = torch.export.load({str(path)!r})\n"
        "assert tuple(program.module()(torch.zeros(5, 3, 32, 32)).shape) == (5, 10)\n"
        "assert not any(name.startswith('mixmix') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path)


@bundled
@pytest.mark.parametrize(("bits", "largest"), [("W8A8", 0.05), ("W4A4", 0.5)])
def test_what_is_left_is_quantized_in_the_same_call(name: str, bits: str, largest: float) -> None:
    quantize = Quantize(bits, reconstruction=ReconstructionSettings(iterations=20))
    compressed = pruned(name, quantize)
    images = normalize(data().images, compressed.spec)
    with torch.no_grad():
        wanted, found = pruned(name).module(images), compressed.module(images)
    assert mean_divergence(wanted, found) < largest
    quantized = [record for record in compressed.records if record.action == "quantized"]
    assert any(r.out_channels and r.out_channels[0] > r.out_channels[1] for r in quantized)


def test_statistics_of_what_is_left_are_measured_anew() -> None:
    before = load("bundled:resnet").module.state_dict()
    after = pruned("resnet").module.state_dict()
    means = [name for name in before if name.endswith("running_mean")]
    assert not any(bool(torch.isin(after[name], before[name]).all()) for name in means)


def divergence_after(name: str, images: Tensor, **options: object) -> float:
    """Of the pruned network from what it was."""
    teacher = load(f"bundled:{name}")
    x = normalize(images, teacher.spec)
    with torch.no_grad():
        return mean_divergence(teacher.module(x), pruned(name, **options).module(x))


def test_importance_by_the_prediction_keeps_it_best() -> None:
    images = data().images
    taylor = divergence_after("resnet", images, importance="taylor")
    assert taylor < divergence_after("resnet", images, importance="magnitude")
    assert divergence_after("resnet", images) == taylor


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet"])
def test_what_others_can_stand_in_for_goes_where_they_are_adapted(name: str) -> None:
    options = {"max_macs": 0.4, "recovery": ReconstructFeatures(iterations=0)}
    unseen = load_calibration_pack()[len(data()) :]
    adapted = divergence_after(name, unseen, **options)
    assert adapted < divergence_after(name, unseen, importance="taylor", **options)
    assert adapted == divergence_after(name, unseen, importance="obs", **options)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet18", 32),
        ("mobilenetv3_small_050", 64),
        ("efficientnet_lite0", 64),
        ("regnety_002", 64),
    ],
)
def test_networks_of_timm(name: str, side: int) -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, num_classes=NUM_CLASSES).eval()
    spec = ModelSpec(name, "module", (3, side, side), (0.5,) * 3, (0.25,) * 3, NUM_CLASSES)
    method = PruneChannels(max_macs=0.5, importance="magnitude", num_images=16, recovery=())
    compressed = compress((model, spec), data(16), method, seed=0)
    assert 0.4 < compressed.applied[0].results["macs_ratio"] <= 0.5
    assert compressed.module(torch.zeros(2, 3, side, side)).shape == (2, NUM_CLASSES)


def test_channels_within_shuffled_blocks_go() -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = models.shufflenet_v2_x0_5(num_classes=NUM_CLASSES).eval()
    spec = ModelSpec("shuffle", "module", (3, 64, 64), (0.5,) * 3, (0.25,) * 3, NUM_CLASSES)
    method = PruneChannels(max_macs=0.5, num_images=16, recovery=())
    compressed = compress((model, spec), data(16), method, seed=0)
    records = {record.name: record for record in compressed.records}
    assert compressed.applied[0].results["macs_ratio"] <= 0.5
    inner, outer = records["stage4.1.branch2.0"], records["stage4.1.branch2.5"]
    assert inner.out_channels and inner.out_channels[0] > inner.out_channels[1]
    assert outer.out_channels and len(set(outer.out_channels)) == 1  # shuffled behind it
