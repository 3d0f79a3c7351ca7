"""Runs: one training run per source of images, with its curve."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from harness.cifar10 import load_cifar10
from harness.clocks import Cost, in_fresh_process
from harness.networks import fresh_network, load_network
from harness.sources import ZOOS, Budget, images_of

from mixmix import (
    Distill,
    GeneratedImages,
    ImageSet,
    Model,
    Zoo,
    compress,
    evaluate,
)
from mixmix.runtime.storage import read_json, read_tensors, write_json

__all__ = ["SOURCES", "Run", "rows_of"]

# A generator that goes on, of the zoo or of the teacher alone; sets of pixels; and one after the
# other, with the pixels of the name that is given.
_GENERATED = {"mixmix-amortized": True, "mixmix-both": True, "amortized-single-network": False}
_PIXELS = {"mixmix-both": "mixmix"}
SOURCES = (*_GENERATED, "mixmix", "deepinversion", "real", "noise")


@dataclass(frozen=True)
class Run:
    """A student, its teacher, and where images come from.

    Attributes:
        teacher: see ``harness.networks.load_network``.
        student: see ``harness.networks.fresh_network``.
        source: one of ``SOURCES``.
        steps: of training.
        seed: of synthesis, of the student and of training.
    """

    teacher: str
    student: str
    source: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        names = f"{self.teacher}-{self.student}".replace(":", "-")
        return f"{names}-{self.source}-{self.steps}-seed{self.seed}"


def rows_of(run: Run, budget: Budget) -> list[dict[str, Any]]:
    """The points of a run's curve, each with the seconds spent until then, synthesis included."""
    folder = budget.work / "runs" / f"{run.name}-{budget.num_images}"
    path = folder / "rows.json"
    if not path.exists():
        images, spent = None, Cost().rounded()
        pixels = _PIXELS.get(run.source, None if run.source in _GENERATED else run.source)
        if pixels is not None:
            of_run = replace(budget, num_images=50_000) if pixels == "real" else budget
            images, _ = images_of(pixels, run.teacher, of_run, seed=run.seed)
            cost = read_json(images / "cost.json")
            spent = {key: cost[key] for key in spent}
        in_fresh_process(_train, run, images, folder, budget)
        in_fresh_process(_evaluate, run, spent, folder, budget)
    rows: list[dict[str, Any]] = read_json(path)["rows"]
    return rows


def _train(run: Run, images: Path | None, folder: Path, budget: Budget) -> None:
    """Train, and keep the student of every checkpoint with what was spent until then."""
    teacher = Model(*load_network(run.teacher, budget.weights_dir))
    fresh, data = None, None if images is None else ImageSet.load(images)
    if run.source in _GENERATED:
        names = ZOOS[budget.zoo] if _GENERATED[run.source] else (run.teacher,)
        zoo = Zoo.load([load_network(name, budget.weights_dir) for name in names])
        fresh = GeneratedImages(zoo)
    method = Distill(fresh_network(run.student, seed=run.seed), fresh=fresh, checkpoints=folder)
    method = replace(method, training=replace(method.training, steps=run.steps))
    clock = folder / "clock.json"
    before = read_json(clock) if clock.exists() else Cost().rounded()
    cpu, wall = time.process_time(), time.perf_counter()
    last = [0.0]

    def keep(what: str, share: float) -> None:
        current = folder / "student.safetensors"
        if not current.exists() or current.stat().st_mtime == last[0]:
            return
        last[0] = current.stat().st_mtime
        spent = {
            "cpu_seconds": before["cpu_seconds"] + time.process_time() - cpu,
            "wall_seconds": before["wall_seconds"] + time.perf_counter() - wall,
        }
        steps = round(share * run.steps)
        write_json(clock, spent)
        write_json(folder / f"point-{steps:06d}.json", spent | {"steps": steps, "told": what})
        shutil.copy(current, folder / f"point-{steps:06d}.safetensors")

    compress(teacher, data, method, seed=run.seed, on_progress=keep)


@torch.no_grad()
def _evaluate(run: Run, spent: dict[str, float], folder: Path, budget: Budget) -> None:
    teacher = Model(*load_network(run.teacher, budget.weights_dir))
    test = load_cifar10(budget.data, split="test")
    rows = []
    for path in sorted(folder.glob("point-*.json")):
        point = read_json(path)
        state, _ = read_tensors(path.with_suffix(".safetensors"))
        student = fresh_network(run.student, seed=run.seed)
        student.load_state_dict(state)
        evaluation = evaluate(Model(student, replace(teacher.spec, sha256="")), test)
        rows.append(
            {
                "model": run.teacher,
                "task": "distill",
                "setting": run.student,
                "images": run.source,
                "num_images": budget.num_images,
                "seed": run.seed,
                "steps": point["steps"],
                "of_steps": run.steps,
                "top1": evaluation.top1,
                "num_test": evaluation.num_images,
                "threads": torch.get_num_threads(),
                "told": point["told"],
            }
            | {key: round(point[key] + before, 1) for key, before in spent.items()}
        )
    write_json(folder / "rows.json", {"rows": rows})
