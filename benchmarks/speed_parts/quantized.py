"""Accuracy and cost of the quantized target, cached by its inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from harness.cifar10 import load_cifar10
from harness.clocks import in_fresh_process, stopwatch
from harness.networks import load_target

from mixmix import Quantize, compress, evaluate, export
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.runtime.storage import read_json, sha256_of_file, write_json
from speed_parts.images import as_dataset
from speed_parts.options import Options

__all__ = ["quantized"]

_NUM_TRAIN = 10_000


def quantized(
    images: Path,
    setting: str,
    options: Options,
    *,
    seed: int,
    iterations: int | None = None,
    split: str = "test",
) -> dict[str, Any]:
    """Quantize the target with these images and measure what was exported.

    Args:
        iterations: of the reconstruction; None for the default.
        split: of CIFAR-10; of ``train``, the first images.

    Returns:
        ``top1``, ``num_test``; ``cpu_seconds``, ``wall_seconds``, ``threads`` of the quantization.
    """
    name = f"{setting}-{iterations or 'default'}-seed{seed}-{split}{'-quick' * options.quick}"
    path = options.work / "quantized" / f"{sha256_of_file(images)[:16]}-{name}.json"
    if not path.exists():
        result = in_fresh_process(_quantize, images, setting, options, seed, iterations, split)
        write_json(path, {"images": images.name} | result)
    result = read_json(path)
    del result["images"]
    return result


def _quantize(
    images: Path, setting: str, options: Options, seed: int, iterations: int | None, split: str
) -> dict[str, Any]:
    target = load_target(options.weights_dir)
    data = as_dataset(images, target)
    settings = ReconstructionSettings()
    if options.quick:
        settings = replace(settings, iterations=2)
    elif iterations is not None:
        settings = replace(settings, iterations=iterations)
    with stopwatch() as cost:
        compressed = compress(target, data, Quantize(setting, reconstruction=settings), seed=seed)
    pixels, labels = load_cifar10(options.data, split=split)
    count = 1000 if options.quick else len(labels) if split == "test" else _NUM_TRAIN
    with TemporaryDirectory() as folder:
        artifact = export(compressed, Path(folder) / "model.onnx", probe=data.images[:100])
        evaluation = evaluate(artifact, (pixels[:count], labels[:count]))
    found = {"top1": evaluation.top1, "num_test": evaluation.num_images}
    return found | cost.rounded() | {"threads": torch.get_num_threads()}
