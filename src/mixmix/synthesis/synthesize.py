"""Synthesis shard by shard, several at a time: every finished one is on disk at once."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from mixmix.data.image_set import ImageSet
from mixmix.data.shards import FORMAT
from mixmix.errors import DataError, InputError
from mixmix.models.loading import Reference
from mixmix.models.model import Model
from mixmix.models.zoo import Zoo
from mixmix.runtime import distributed, seeding
from mixmix.runtime.allocator import keeping_freed_memory
from mixmix.synthesis.folder import RunFolder
from mixmix.synthesis.initial import balanced_labels
from mixmix.synthesis.kept import KeptShards
from mixmix.synthesis.loop import optimize_batch
from mixmix.synthesis.schedule import Schedule, plan
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.workers import run_side_by_side

__all__ = ["provenance", "synthesize"]


@keeping_freed_memory()
def synthesize(
    zoo: Zoo | Reference | Iterable[Reference],
    settings: SynthesisSettings | None = None,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    start: ImageSet | None = None,
    student: Model | None = None,
    threads: int | None = None,
    memory_gib: float | None = None,
    on_plan: Callable[[Schedule], None] = lambda schedule: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImageSet:
    """Synthesize a labeled data set from a zoo of pretrained networks and no data.

    On a CPU, batches are optimized side by side, as many as there are threads, as long as they fit
    into the memory; where a single one does not, its images pass the networks in parts, which takes
    longer and gives the same images but for rounding. Until the call ends, the process keeps the
    memory that it once used (see ``runtime.allocator``).
    Under ``torchrun``, every process calls this, they share the batches, and all of them return the
    whole data set. A process that is lost stops the run; the next one, with any number of
    processes, makes the batches that are missing.

    Args:
        zoo: the networks to invert together: a ``Zoo``, or whatever ``Zoo.load`` takes, such as
            ``["bundled:vgg", "bundled:vovnet"]``.
        settings: ``SynthesisSettings()`` unless given; ``recipe(name)`` gives known ones.
        seed: the same seed, zoo, settings, machine and number of threads give the same bits,
            whatever the number of processes. (Kernels of GPUs may add in another order.)
        out: folder for the shards. A run that was interrupted resumes where it was and ends with
            the same bits as one that was not; a finished one is only read. None keeps the images
            in memory. Several processes need a folder that all of them see.
        start: images to go on from, of whatever zoo, in place of noise; as many are made, with the
            same labels. A few iterations (``recipe("refine")``) fit them to a network that was not
            in their zoo.
        student: with the term ``Adversarial`` in the settings, images are made on which it does not
            agree with the zoo (Adaptive DeepInversion, Yin et al. 2020).
        threads: CPU threads on this machine, for all of its processes; by default
            ``torch.get_num_threads()``, or all processors under ``torchrun``.
        memory_gib: to stay within, GiB, beside the networks' weights; by default half of what the
            device has.
        on_plan: told of the schedule before the start: what is made at a time and in how much
            memory.
        on_progress: called with (iterations done, iterations in all), without those of other
            processes, from one thread at a time.

    Returns:
        The data set; its manifest says how it was made.

    Raises:
        InputError: if ``out`` holds a data set made in another way, or cannot be written, or is
            None for several processes; if the settings ask for nothing that these networks have; if
            ``memory_gib`` is too little for one image; if ``start`` has images of another shape or
            classes that they do not know.
        RankError: if another process of the run stopped.

    Examples:
        >>> quick = mixmix.recipe("mixmix", num_images=8, batch_size=8, iterations=2)
        >>> images = mixmix.synthesize(["bundled:vgg", "bundled:vovnet"], quick, seed=0)
        >>> images.images.shape, images.labels.shape, images.soft_labels.shape
        (torch.Size([8, 3, 32, 32]), torch.Size([8]), torch.Size([8, 10]))
    """
    zoo = Zoo.load(zoo)
    settings = settings or SynthesisSettings()
    if out is None and distributed.world_size() > 1:
        raise InputError(
            f"{distributed.world_size()} processes synthesize together, which needs a folder that "
            "all of them see; give out"
        )
    if start is not None:
        _check_start(start, zoo)
        settings = replace(settings, num_images=len(start))
    distributed.join(zoo.device)
    schedule = plan(zoo, settings, threads=threads, memory_gib=memory_gib)
    on_plan(schedule)
    manifest = _manifest(zoo, settings, seed, schedule)
    if start is not None:
        models = [model["name"] for model in start.manifest.get("models", [])]
        manifest["start"] = {"sha256": start.sha256, "models": models}
    if student is not None:
        manifest["student"] = {"sha256": student.spec.sha256, "name": student.spec.name}
    balanced = balanced_labels(settings.num_images, zoo.num_classes)
    labels = (balanced if start is None else start.labels).split(settings.batch_size)
    if out is None:
        run = _Run(zoo, settings, seed, labels, start, student, None)
        run.make(range(len(labels)), schedule, on_progress)
        return run.kept.in_memory(manifest)
    folder = RunFolder(Path(out), manifest)
    run = _Run(zoo, settings, seed, labels, start, student, folder)
    missing = distributed.from_main(lambda: folder.missing(len(labels)))
    run.make(missing, schedule, on_progress)
    made = distributed.gather(list(run.kept.entries.values()))
    if distributed.is_main():
        folder.finish([entry for entries in made for entry in entries])
    distributed.barrier()
    data = ImageSet.load(folder.path)
    if data.refused:
        reasons = "; ".join(data.refused.values())
        raise DataError(
            f"{folder.path}: {reasons}; processes on several machines need a folder that all of "
            "them see"
        )
    return data


def provenance(zoo: Zoo) -> dict[str, Any]:
    """What a manifest says of the networks and of the software."""
    return {
        "models": [teacher.spec.to_dict() for teacher in zoo],
        "members": [
            {"name": m.model.spec.name, "weight": m.weight, "role": m.role} for m in zoo.members
        ],
        "classes": list(zoo.classes),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "machine": {"device": zoo.device.type, "processor": platform.machine()},
    }


def _manifest(
    zoo: Zoo, settings: SynthesisSettings, seed: int, schedule: Schedule
) -> dict[str, Any]:
    """How a run is made, the same in all of its processes."""
    content: dict[str, Any] = {"format": FORMAT, "settings": settings.to_dict(), "seed": seed}
    content |= provenance(zoo)
    threads = {"threads_per_shard": schedule.threads_per_shard, "images_per_pass": schedule.part}
    return content | {"machine": content["machine"] | threads}


def _check_start(start: ImageSet, zoo: Zoo) -> None:
    if tuple(start.images.shape[1:]) != zoo.input_shape:
        raise InputError(
            f"the images to start from have shape {tuple(start.images.shape[1:])}, this zoo takes "
            f"{zoo.input_shape}; start from images of a zoo of that shape"
        )
    classes = start.soft_labels.shape[1]
    if zoo.num_classes and classes and classes != zoo.num_classes:
        raise InputError(
            f"the images to start from have {classes} classes, this zoo has {zoo.num_classes}; "
            "start from images of the same label set"
        )


class _Run:
    """The shards that this process makes, kept in a folder or in memory."""

    def __init__(
        self,
        zoo: Zoo,
        settings: SynthesisSettings,
        seed: int,
        labels: Sequence[Tensor],
        start: ImageSet | None,
        student: Model | None,
        folder: RunFolder | None,
    ) -> None:
        self.zoo, self.settings, self.seed, self.student = zoo, settings, seed, student
        self.labels, self.kept = labels, KeptShards(zoo, folder)
        self.start = None if start is None else start.images.split(settings.batch_size)
        self.part: int | None = None

    def make(
        self,
        missing: Sequence[int],
        schedule: Schedule,
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Make this process's part of the missing shards."""
        mine = missing[distributed.rank() :: distributed.world_size()]
        self.part = schedule.part
        num_finished = len(self.labels) - len(missing)
        iterations = self.settings.iterations
        progress = _Progress(on_progress, (num_finished + len(mine)) * iterations)
        for _ in range(num_finished):
            progress.advance(iterations)
        run_side_by_side(
            [partial(self._make_shard, index, progress) for index in mine],
            at_once=schedule.shards_at_once,
            threads_per_job=schedule.threads_per_shard,
        )

    def _make_shard(self, index: int, progress: _Progress, check: Callable[[], None]) -> None:
        def on_step() -> None:
            check()
            progress.advance(1)

        labels = self.labels[index]
        batch = optimize_batch(
            self.zoo,
            labels,
            self.settings,
            generator=seeding.generator(self.seed, "shard", index),
            start=None if self.start is None else self.start[index],
            student=self.student,
            part=self.part,
            on_step=on_step,
        )
        self.kept.keep(index, batch.images, labels, batch.trace)
        progress.advance(0)


class _Progress:
    """Counts iterations of all threads, and tells of them one at a time."""

    def __init__(self, on_progress: Callable[[int, int], None], total: int) -> None:
        self._on_progress, self._total, self._done = on_progress, total, 0
        self._lock = Lock()

    def advance(self, iterations: int) -> None:
        with self._lock:
            self._done += iterations
            self._on_progress(self._done, self._total)
