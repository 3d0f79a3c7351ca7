"""A cell's row: prune, recover, export, evaluate the exported file on the whole test split."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from harness.cifar10 import load_cifar10
from harness.clocks import in_fresh_process, stopwatch
from harness.floats import agreement_with_floats, float_row
from harness.networks import load_network
from harness.sources import ZOOS, Budget, images_of

from mixmix import (
    Compressed,
    GeneratedImages,
    ImageSet,
    Model,
    Zoo,
    compress,
    evaluate,
    export,
)
from mixmix.runtime.storage import read_json, write_json
from mixmix.runtimes.latency import compare_latency_ms
from pruning_parts.cells import GENERATED, Cell, is_structured, method_of

__all__ = ["row_of"]


def row_of(cell: Cell, budget: Budget) -> dict[str, Any]:
    """The row of a cell, measured unless it was measured before."""
    path = budget.work / "cells" / f"{cell.name}-{budget.num_images}.json"
    if not path.exists():
        float_row(cell.network, budget, task="prune")
        source = _source_of_images(cell)
        folder, synthesis_seed = images_of(source, cell.network, budget, seed=cell.seed)
        found = in_fresh_process(_measure, cell, folder, budget)
        write_json(path, found | {"synthesis_seed": synthesis_seed})
    row: dict[str, Any] = read_json(path)
    return row


def _source_of_images(cell: Cell) -> str:
    return "mixmix" if cell.source == GENERATED else cell.source


def _fresh(cell: Cell, budget: Budget) -> GeneratedImages | None:
    """What goes on making images, from the zoo and the network itself."""
    if cell.source != GENERATED:
        return None
    names = dict.fromkeys((cell.network, *ZOOS[budget.zoo]))
    zoo = Zoo.load([load_network(name, budget.weights_dir) for name in names])
    return GeneratedImages(zoo, first_rounds=24, every_steps=100)


def _measure(cell: Cell, folder: Path, budget: Budget) -> dict[str, Any]:
    target = Model(*load_network(cell.network, budget.weights_dir))
    data = ImageSet.load(folder)
    method = method_of(cell.setting, cell.recovery, fresh=_fresh(cell, budget))
    with stopwatch() as cost:
        compressed = compress(target, data, method, seed=cell.seed)
    with TemporaryDirectory() as scratch:
        files = Path(scratch)
        dense = export(Compressed(target.module, target.spec), files / "dense.onnx")
        artifact = export(compressed, files / "pruned.onnx", probe=data.images[:100])
        evaluation = evaluate(artifact, load_cifar10(budget.data, split="test"))
        size_bytes, latency = artifact.size_bytes, {}
        if is_structured(cell.setting):
            of_dense, of_pruned = compare_latency_ms(
                [dense.path, artifact.path], rounds=15, quantile=0.1
            ).values()
            latency = {"latency_ms": of_pruned, "speedup": of_dense / of_pruned}
        else:
            sparse = export(compressed, files / "pruned.safetensors", format="sparse")
            size_bytes = sparse.size_bytes
        size_ratio = size_bytes / dense.size_bytes
    return (
        {
            "model": cell.network,
            "task": "prune",
            "setting": cell.setting,
            "recovery": cell.recovery,
            "images": cell.source,
            "num_images": len(data),
            "seed": cell.seed,
            "top1": evaluation.top1,
            "agreement": agreement_with_floats(evaluation.predictions, cell.network, budget),
            "num_test": evaluation.num_images,
            "size_bytes": size_bytes,
            "size_ratio": size_ratio,
            "threads": torch.get_num_threads(),
        }
        | latency
        | cost.rounded()
    )
