"""A cell's row: images, compress, export, evaluate the file on photographs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from harness.clocks import in_fresh_process, stopwatch
from pruning_parts.cells import is_structured

from imagenet_parts.cells import SOURCES, TARGET, Cell, method_of
from imagenet_parts.images import load_photographs
from mixmix import (
    ImageSet,
    Zoo,
    compress,
    evaluate,
    export,
    load,
    recipe,
    synthesize,
)
from mixmix.runtime.storage import read_json, read_tensors, write_json, write_tensors

__all__ = ["Run", "float_row", "row_of"]


@dataclass(frozen=True)
class Run:
    """Where things are, and how much of everything there is.

    Attributes:
        photographs: folder for evaluation.
        work: images and results of finished cells; what is there is not made again.
        num_images: of every source; one batch.
        iterations: of synthesis.
        scales: see ``SynthesisSettings.scales``.
        reconstruction: iterations for each block of quantized networks; None for the default.
        steps: of fine-tuning pruned networks; None for the default.
    """

    photographs: Path
    work: Path
    num_images: int
    iterations: int
    scales: tuple[float, ...]
    reconstruction: int | None
    steps: int | None


def float_row(run: Run, *, task: str) -> dict[str, Any]:
    """The untouched network, for the table of a task."""
    path = run.work / "cells" / "float.json"
    if not path.exists():
        in_fresh_process(_measure_float, run, path)
    return read_json(path) | {"task": task}


def row_of(cell: Cell, run: Run) -> dict[str, Any]:
    """The row of a cell, measured unless it was measured before."""
    path = run.work / "cells" / f"{cell.name}-{run.num_images}.json"
    if not path.exists():
        float_row(run, task=cell.task)
        folder = run.work / "images" / f"{cell.source.replace(' ', '')}-{cell.seed}"
        if not (folder / "cost.json").exists():
            in_fresh_process(_make, cell, folder, run)
        in_fresh_process(_measure, cell, folder, run, path)
    row: dict[str, Any] = read_json(path)
    return row


def _make(cell: Cell, folder: Path, run: Run) -> None:
    names = SOURCES[cell.source]
    budget = {"num_images": run.num_images, "batch_size": run.num_images}
    if names:
        settings = recipe("mixmix", iterations=run.iterations, scales=run.scales, **budget)
    else:
        settings = recipe("noise", **budget)
    zoo = Zoo.load(names or [TARGET])
    with stopwatch() as cost:
        data = synthesize(zoo, settings, seed=cell.seed, out=folder)
    data.contact_sheet(folder / "contact-sheet.png")
    write_json(folder / "cost.json", cost.rounded())


def _predictions_path(path: Path) -> Path:
    return path.with_suffix(".safetensors")


def _measure_float(run: Run, path: Path) -> None:
    target = load(TARGET)
    evaluation = evaluate(target, load_photographs(run.photographs, target.spec.input_shape[1]))
    write_tensors(_predictions_path(path), {"predictions": evaluation.predictions})
    row = {"model": TARGET, "setting": "float", "images": "float", "seed": 0}
    write_json(path, row | {"top1": evaluation.top1, "num_test": evaluation.num_images})


def _measure(cell: Cell, folder: Path, run: Run, path: Path) -> None:
    target = load(TARGET)
    data = ImageSet.load(folder)
    method = method_of(cell, reconstruction=run.reconstruction, steps=run.steps)
    with stopwatch() as cost:
        compressed = compress(target, data, method, seed=cell.seed)
    photographs, labels = load_photographs(run.photographs, target.spec.input_shape[1])
    with TemporaryDirectory() as scratch:
        artifact = export(compressed, Path(scratch) / "model.onnx", probe=data.images[:64])
        evaluation = evaluate(artifact, (photographs, labels))
        size_bytes = artifact.size_bytes
        if cell.recovery and not is_structured(cell.what):
            sparse = export(compressed, Path(scratch) / "model.safetensors", format="sparse")
            size_bytes = sparse.size_bytes
    write_tensors(
        _predictions_path(path), {"predictions": evaluation.predictions, "labels": labels}
    )
    floats, _ = read_tensors(_predictions_path(run.work / "cells" / "float.json"))
    same = evaluation.predictions == floats["predictions"]
    spent = read_json(folder / "cost.json")
    row = {
        "model": TARGET,
        "task": cell.task,
        "setting": cell.setting,
        "images": cell.source,
        "zoo": list(SOURCES[cell.source]),
        "num_images": len(data),
        "iterations": run.iterations,
        "scales": list(run.scales),
        "reconstruction_iterations": run.reconstruction,
        "fine_tuning_steps": run.steps,
        "seed": cell.seed,
        "top1": evaluation.top1,
        "agreement": 100 * float(same.float().mean()),
        "num_test": evaluation.num_images,
        "size_bytes": size_bytes,
        "threads": torch.get_num_threads(),
        "synthesis_cpu_seconds": spent["cpu_seconds"],
        "synthesis_wall_seconds": spent["wall_seconds"],
        "hits": "".join(str(int(hit)) for hit in evaluation.predictions == labels),
    }
    write_json(path, row | cost.rounded())
