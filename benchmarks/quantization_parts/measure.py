"""A cell's row: quantize, export, evaluate the exported file on the whole test split."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from harness.cifar10 import load_cifar10
from harness.clocks import in_fresh_process, stopwatch
from harness.floats import agreement_with_floats, float_row
from harness.networks import load_network
from harness.sources import Budget, images_of

from mixmix import (
    ImageSet,
    Method,
    MixedPrecision,
    Model,
    Quantize,
    QuantizeAware,
    compress,
    estimate_accuracy,
    evaluate,
    export,
    measure_sensitivity,
)
from mixmix.runtime.storage import read_json, write_json
from quantization_parts.cells import Cell

__all__ = ["row_of"]

# Images from which the loss of accuracy is estimated have a seed that no quantized set has.
_HELD_OUT_SEED = 1000


def row_of(cell: Cell, budget: Budget) -> dict[str, Any]:
    """The row of a cell, measured unless it was measured before."""
    path = budget.work / "cells" / f"{cell.name}-{budget.num_images}.json"
    if not path.exists():
        float_row(cell.network, budget, task=cell.task)
        folder, synthesis_seed = images_of(cell.source, cell.network, budget, seed=cell.seed)
        held_out, _ = images_of("mixmix", cell.network, budget, seed=_HELD_OUT_SEED)
        found = in_fresh_process(_measure, cell, folder, held_out, budget)
        cost = read_json(folder / "cost.json")
        about = {
            "zoo": cost["zoo"],
            "iterations": cost["iterations"],
            "synthesis_seed": synthesis_seed,
            "synthesis_cpu_seconds": cost["cpu_seconds"],
        }
        write_json(path, found | about)
    row: dict[str, Any] = read_json(path)
    return row


def _measure(cell: Cell, folder: Path, held_out: Path, budget: Budget) -> dict[str, Any]:
    target = Model(*load_network(cell.network, budget.weights_dir))
    data = ImageSet.load(folder)
    with stopwatch() as cost:
        compressed = compress(target, data, _method(cell, target, data), seed=cell.seed)
    with TemporaryDirectory() as scratch:
        artifact = export(compressed, Path(scratch) / "model.onnx", probe=data.images[:100])
        evaluation = evaluate(artifact, load_cifar10(budget.data, split="test"))
    estimate = estimate_accuracy(compressed, target, ImageSet.load(held_out))
    return {
        "model": cell.network,
        "task": cell.task,
        "setting": cell.setting,
        "images": cell.source,
        "num_images": len(data),
        "seed": cell.seed,
        "top1": evaluation.top1,
        "agreement": agreement_with_floats(evaluation.predictions, cell.network, budget),
        "num_test": evaluation.num_images,
        "predicted_drop": estimate.predicted_drop,
        "predicted_drop_interval": list(estimate.predicted_drop_interval),
        "size_bytes": artifact.size_bytes,
        "threads": torch.get_num_threads(),
    } | cost.rounded()


def _method(cell: Cell, target: Model, data: ImageSet) -> Method:
    if cell.task == "qat":
        return QuantizeAware(Quantize(cell.setting, first_last_bits=None))
    if cell.task == "mixed":
        _, activation_bits = cell.setting.split("A")
        return MixedPrecision(
            max_size_bytes=_uniform_size_bytes(cell.setting, target, data),
            choices=tuple(f"W{bits}A{activation_bits}" for bits in (2, 3, 4, 8)),
        )
    return Quantize(cell.setting)


def _uniform_size_bytes(bits: str, target: Model, data: ImageSet) -> int:
    """Size of the network with these bits, but for its first and last layer."""
    table = measure_sensitivity(target, data, choices=(bits,), num_images=2, seed=0)
    return table.size_bytes({layer.name: next(iter(layer.divergence)) for layer in table.layers})
