"""Do exported files run as integers, how small and how fast are they, and do they compute the same?

``python benchmarks/deployment.py --weights-dir WEIGHTS --data CIFAR10 --images IMAGES --threads 1
--out benchmarks/records/DATE_deployment``

For networks with random weights (``torchvision:`` and ``timm:``), only sizes, kernels and latencies
are measured.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.cifar10 import load_cifar10
from harness.networks import load_network
from harness.threads import limit_threads

from mixmix import (
    Compressed,
    ImageSet,
    Model,
    Quantize,
    ReconstructionSettings,
    compress,
    evaluate,
    export,
)
from mixmix.export.profile import kernel_profile
from mixmix.report.record import benchmark_record
from mixmix.runtime.storage import write_json
from mixmix.runtimes.latency import compare_latency_ms

QUESTION = (
    "Do exported files run as integers, how small and how fast are they, and do they compute "
    "the same?"
)
NETWORKS = (
    "resnet20",
    "bundled:mobilenetv2",
    "bundled:vgg",
    "bundled:vovnet",
    "timm:resnet18@224",
    "torchvision:mobilenet_v2@224",
    "torchvision:mobilenet_v3_small@224",
    "torchvision:efficientnet_b0@224",
    "torchvision:shufflenet_v2_x0_5@224",
)
# Bits, and what the file is optimized for.
SETTINGS = ("W8A8-size", "W4A8-size", "W4A8-speed", "W4A4-speed")


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.threads:
        limit_threads(arguments.threads)
    data = ImageSet.load(arguments.images)
    path = arguments.out / "result.json"
    rows: list[dict[str, Any]] = []
    for name in arguments.networks.split(","):
        settings = arguments.settings.split(",")
        rows += _rows(name, settings, data, arguments)
        command = f"python {shlex.join(sys.argv)}"
        write_json(path, benchmark_record(QUESTION, command, rows))
        for row in rows[-len(settings) :]:
            print(row, flush=True)


def _rows(
    name: str, settings: list[str], data: ImageSet, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    target = Model(*load_network(name, arguments.weights_dir))
    is_trained = not name.startswith(("torchvision:", "timm:"))
    test = load_cifar10(arguments.data, split="test") if is_trained else None
    if not is_trained:
        data, _ = data.split(64)
    with TemporaryDirectory() as scratch:
        floats = export(Compressed(target.module, target.spec), Path(scratch) / "float.onnx")
        rows, files = [], [floats.path]
        for setting in settings:
            bits, aim = setting.split("-")
            # Random weights have nothing for reconstruction to keep.
            method = Quantize(bits) if is_trained else _without_reconstruction(bits)
            compressed = compress(target, data, method, seed=0)
            artifact = export(
                compressed,
                Path(scratch) / f"{setting}.onnx",
                optimize_for=aim,
                probe=data.images[:64],
                min_agreement=0.0,
                max_logit_error=float("inf"),
            )
            files.append(artifact.path)
            profile = kernel_profile(artifact.path)
            row = {
                "model": name,
                "task": "quantize",
                "setting": bits,
                "optimize_for": aim,
                "images": "mixmix",
                "num_images": len(data),
                "seed": 0,
                "size_bytes": artifact.size_bytes,
                "size_ratio": artifact.size_bytes / floats.size_bytes,
                "integer_mac_share": profile.integer_mac_fraction,
                "integer_time_share": profile.integer_time_fraction,
                "float_layers": [node.name for node in profile.float_layers],
                "agreement_with_pytorch": artifact.agreement,
            }
            if test is not None:
                exported, simulated = evaluate(artifact, test), evaluate(compressed, test)
                row |= {
                    "num_test": exported.num_images,
                    "top1": exported.top1,
                    "top1_in_pytorch": simulated.top1,
                }
            rows.append(row)
        latencies = compare_latency_ms(files)
    for row, file in zip(rows, files[1:], strict=True):
        row["latency_ms"] = latencies[str(file)]
        row["float_latency_ms"] = latencies[str(files[0])]
        row["speedup"] = row["float_latency_ms"] / row["latency_ms"]
    return rows


def _without_reconstruction(bits: str) -> Quantize:
    return Quantize(bits, reconstruction=ReconstructionSettings(iterations=0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10")
    parser.add_argument("--images", type=Path, required=True, help="folder of synthetic images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument(
        "--threads", type=int, help="threads of everything but the measured sessions"
    )
    return parser


if __name__ == "__main__":
    main()
