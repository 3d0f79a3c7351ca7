"""A cell's row: prune, recover, export, evaluate the exported file on the whole test split."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from harness.clocks import in_fresh_process, stopwatch
from harness.networks import load_network
from harness.sources import Budget, images_of

from mixmix import Compressed, SyntheticDataset, Teacher, compress, evaluate, export
from mixmix.cifar10 import load_cifar10
from mixmix.cost import compare_latency_ms
from mixmix.storage import read_json, write_json
from pruning_parts.cells import Cell, method_of

__all__ = ["float_row", "row_of"]


def row_of(cell: Cell, budget: Budget) -> dict[str, Any]:
    """The row of a cell, measured unless it was measured before."""
    path = budget.work / "cells" / f"{cell.name}-{budget.num_images}.json"
    if not path.exists():
        folder, synthesis_seed = images_of(cell.source, cell.network, budget, seed=cell.seed)
        found = in_fresh_process(_measure, cell, folder, budget)
        write_json(path, found | {"synthesis_seed": synthesis_seed})
    row: dict[str, Any] = read_json(path)
    return row


def float_row(network: str, budget: Budget) -> dict[str, Any]:
    """The untouched network on the same images."""
    path = budget.work / "cells" / f"{network.replace(':', '-')}-dense.json"
    if not path.exists():
        write_json(path, in_fresh_process(_measure_dense, network, budget))
    row: dict[str, Any] = read_json(path)
    return row


def _measure(cell: Cell, folder: Path, budget: Budget) -> dict[str, Any]:
    target = Teacher(*load_network(cell.network, budget.weights_dir))
    data = SyntheticDataset.load(folder)
    with stopwatch() as cost:
        compressed = compress(target, data, method_of(cell), seed=cell.seed)
    with TemporaryDirectory() as scratch:
        dense = export(Compressed(target.model, target.spec), Path(scratch) / "dense.onnx")
        artifact = export(compressed, Path(scratch) / "pruned.onnx", probe=data.images[:100])
        evaluation = evaluate(artifact, load_cifar10(budget.data, split="test"), reference=dense)
        latencies = compare_latency_ms([dense.path, artifact.path])
        sizes = [one.size_bytes for one in (dense, artifact)]
    before, after = latencies.values()
    return {
        "model": cell.network,
        "task": "prune",
        "setting": cell.setting,
        "recovery": cell.recovery,
        "images": cell.source,
        "num_images": len(data),
        "seed": cell.seed,
        "top1": evaluation.top1,
        "agreement": evaluation.agreement,
        "num_test": evaluation.num_images,
        "size_bytes": sizes[1],
        "size_ratio": sizes[1] / sizes[0],
        "latency_ms": after,
        "speedup": before / after,
        "threads": torch.get_num_threads(),
    } | cost.rounded()


def _measure_dense(network: str, budget: Budget) -> dict[str, Any]:
    target = Teacher(*load_network(network, budget.weights_dir))
    evaluation = evaluate(target, load_cifar10(budget.data, split="test"))
    return {
        "model": network,
        "task": "prune",
        "setting": "float",
        "images": "float",
        "seed": 0,
        "top1": evaluation.top1,
        "num_test": evaluation.num_images,
    }
