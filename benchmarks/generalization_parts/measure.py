"""A cell's row: images of its zoo, then quantize, export, evaluate the file on the test split."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from harness.cifar10 import load_cifar10
from harness.clocks import in_fresh_process, stopwatch
from harness.floats import agreement_with_floats, float_row
from harness.networks import load_network
from harness.sources import Budget

from generalization_parts.cells import Cell, zoo_of
from mixmix import (
    ImageSet,
    Model,
    Quantize,
    Zoo,
    compress,
    evaluate,
    export,
    recipe,
    synthesize,
)
from mixmix.runtime.storage import read_json, write_json
from mixmix.synthesis.terms import BatchNormDistance

__all__ = ["row_of"]


def row_of(cell: Cell, budget: Budget) -> dict[str, Any]:
    """The row of a cell, measured unless it was measured before."""
    path = budget.work / "cells" / f"{cell.name}-{budget.num_images}.json"
    if not path.exists():
        float_row(cell.target, budget, task="generalize")
        folder = _images_of(cell, budget)
        in_fresh_process(_measure, cell, folder, budget, path)
    row: dict[str, Any] = read_json(path)
    return row


def _images_of(cell: Cell, budget: Budget) -> Path:
    name = Cell(cell.row, "images", "of", cell.seed).name
    folder = budget.work / "images" / f"{name}-{budget.num_images}"
    if not (folder / "cost.json").exists():
        in_fresh_process(_make, cell, folder, budget)
    return folder


def _make(cell: Cell, folder: Path, budget: Budget) -> None:
    zoo = Zoo.load([load_network(name, budget.weights_dir) for name in zoo_of(cell.row)])
    settings = recipe("mixmix", num_images=budget.num_images)
    settings = settings.with_term(BatchNormDistance(balance=cell.balanced))
    with stopwatch() as cost:
        synthesize(zoo, settings, seed=cell.seed, out=folder)
    write_json(folder / "cost.json", cost.rounded())


def _measure(cell: Cell, folder: Path, budget: Budget, path: Path) -> None:
    target = Model(*load_network(cell.target, budget.weights_dir))
    data = ImageSet.load(folder)
    with stopwatch() as cost:
        compressed = compress(target, data, Quantize(cell.setting), seed=cell.seed)
    with TemporaryDirectory() as scratch:
        artifact = export(compressed, Path(scratch) / "model.onnx", probe=data.images[:100])
        evaluation = evaluate(artifact, load_cifar10(budget.data, split="test"))
    row = {
        "model": cell.target,
        "task": "generalize",
        "setting": cell.setting,
        "images": cell.row,
        "zoo": list(zoo_of(cell.row)),
        "num_images": len(data),
        "seed": cell.seed,
        "top1": evaluation.top1,
        "agreement": agreement_with_floats(evaluation.predictions, cell.target, budget),
        "num_test": evaluation.num_images,
        "threads": torch.get_num_threads(),
        "synthesis_cpu_seconds": read_json(folder / "cost.json")["cpu_seconds"],
    }
    write_json(path, row | cost.rounded())
