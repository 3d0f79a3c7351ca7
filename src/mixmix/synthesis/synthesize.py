"""Synthesis by optimization of pixels, shard by shard."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from mixmix._display import shorten
from mixmix.data.flips import warn_of_names
from mixmix.data.image_set import ImageSet
from mixmix.data.shards import FORMAT
from mixmix.errors import InputError
from mixmix.models.loading import Reference
from mixmix.models.zoo import Zoo
from mixmix.runtime import distributed, seeding
from mixmix.runtime.allocator import keeping_freed_memory
from mixmix.runtime.identity import identity_of
from mixmix.runtime.progress import Progress, showing
from mixmix.synthesis.gradients import check_gradients
from mixmix.synthesis.initial import balanced_labels
from mixmix.synthesis.loop import optimize_batch
from mixmix.synthesis.schedule import Schedule, plan
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.shard_store import ShardStore
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
    threads: int | None = None,
    memory_gib: float | None = None,
    on_plan: Callable[[Schedule], None] = lambda schedule: None,
    on_progress: Progress | None = None,
) -> ImageSet:
    """Synthesize labeled images from a zoo of pretrained networks, without data.

    On a CPU, one batch per thread is optimized in parallel, as far as memory allows. If a single
    batch does not fit, networks process its images in chunks, which is slower and gives the same
    images up to rounding. The process keeps freed memory until the call ends (see
    ``runtime.allocator``).

    Under ``torchrun``, every process calls this function; batches are split across processes, and
    each process returns the whole data set. If a process stops, the run stops; repeat the call,
    with any number of processes, to make the missing batches.

    Args:
        zoo: the networks to invert: a ``Zoo``, or references as for ``Zoo.load``, such as
            ``["bundled:vgg", "bundled:vovnet"]``.
        settings: of the loss and its optimization; ``recipe(name)`` returns the settings of a
            published method.
        seed: the same seed, zoo, settings, machine and number of threads give bitwise identical
            images, for any number of processes (except with nondeterministic GPU kernels).
        out: folder for the images. An interrupted run resumes with bitwise identical results; a
            finished one is only read. None keeps the images in memory. Several processes need a
            folder that all of them can access.
        start: initial images instead of noise, from any zoo. Their number and labels do not change;
            labels are matched to the classes of this zoo by name.
            A few iterations (``recipe("refine")``) adapt them to a network outside their zoo.
        threads: CPU threads on this machine, for all processes; by default
            ``torch.get_num_threads()``, or the number of processors under ``torchrun``.
        memory_gib: memory limit in GiB, in addition to the networks' weights; by default half of
            the device's memory.
        on_plan: called with the schedule before the start.
        on_progress: called with (a description, fraction of this process's iterations done), from
            one thread at a time; None shows progress on standard error.

    Returns:
        The images; the manifest records how they were made.

    Raises:
        InputError: if ``out`` contains the data set of another run, cannot be written, or is None
            with several processes; if no term applies to the networks; if ``memory_gib`` is
            too little for one image; if ``start`` does not fit the zoo.
        RankError: if another process of the run stopped.

    >>> settings = mixmix.recipe("mixmix", num_images=8, batch_size=8, iterations=2)
    >>> mixmix.synthesize(["bundled:vgg", "bundled:vovnet"], settings)
    ImageSet(images=8, shape=(3, 32, 32), classes=10, from=..., label_agreement=...)
    """
    zoo, settings = Zoo.load(zoo), SynthesisSettings() if settings is None else settings
    if not isinstance(settings, SynthesisSettings):
        raise InputError(
            f"settings must be SynthesisSettings, got {shorten(repr(settings))}; "
            "recipe(NAME) returns those of a recipe"
        )
    if out is None and distributed.world_size() > 1:
        raise InputError(
            f"{distributed.world_size()} processes need a folder that all of them can access; "
            "pass out"
        )
    check_gradients(zoo)
    given = start
    if start is not None:
        start = _fitted_start(start, zoo)
        settings = replace(settings, num_images=len(start))
    if settings.flip:
        warn_of_names(model.spec for model in zoo)
    distributed.join(zoo.device)
    schedule = plan(zoo, settings, threads=threads, memory_gib=memory_gib)
    on_plan(schedule)
    balanced = balanced_labels(settings.num_images, zoo.num_classes)
    labels = (balanced if start is None else start.labels).split(settings.batch_size)
    initial = None if start is None else start.images.split(settings.batch_size)
    manifest = _manifest(zoo, settings, seed, schedule, given)
    with (
        distributed.stopping_together(),
        ShardStore(zoo, manifest, out) as store,
        showing("synthesizing", on_progress) as advance,
    ):
        missing = distributed.from_main(
            lambda: store.missing(len(labels), images_per_shard=settings.batch_size)
        )
        mine = missing[distributed.rank() :: distributed.world_size()]
        num_finished = len(labels) - len(missing)
        progress = _Progress(advance, (num_finished + len(mine)) * settings.iterations)
        for _ in range(num_finished):
            progress.advance(settings.iterations)

        def make_shard(index: int, check: Callable[[], None]) -> None:
            def on_step() -> None:
                check()
                progress.advance(1)

            images, trace = optimize_batch(
                zoo,
                labels[index],
                settings,
                generator=seeding.generator(seed, "shard", index),
                start=None if initial is None else initial[index],
                chunk_size=schedule.chunk_size,
                on_step=on_step,
            )
            store.add(index, images, labels[index], trace)
            progress.advance(0)

        try:
            run_side_by_side(
                [partial(make_shard, index) for index in mine],
                at_once=schedule.shards_at_once,
                threads_per_job=schedule.threads_per_shard,
            )
        except KeyboardInterrupt as error:
            done = f"{num_finished + store.num_added} of {len(labels)} batches of images are kept"
            kept = "nothing is kept without a folder" if out is None else f"{done} in {out}"
            raise KeyboardInterrupt(f"interrupted; {kept}; repeat to continue") from error
        return store.finish()


def provenance(zoo: Zoo) -> dict[str, Any]:
    """Networks and software, for a manifest."""
    return {
        "models": [teacher.spec.to_dict() for teacher in zoo],
        "networks": [{"name": each.spec.name} | identity_of(each.module) for each in zoo],
        "members": [
            {"name": m.model.spec.name, "weight": m.weight, "role": m.role} for m in zoo.members
        ],
        "classes": list(zoo.classes),
        "label_set": zoo.label_space.label_set,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "machine": {"device": zoo.device.type, "processor": platform.machine()},
    }


def _manifest(
    zoo: Zoo,
    settings: SynthesisSettings,
    seed: int,
    schedule: Schedule,
    start: ImageSet | None,
) -> dict[str, Any]:
    """How a run is made, the same in all of its processes."""
    content: dict[str, Any] = {"format": FORMAT, "settings": settings.to_dict(), "seed": seed}
    content |= provenance(zoo)
    content["machine"] |= {
        "threads_per_shard": schedule.threads_per_shard,
        "chunk_size": schedule.chunk_size,
    }
    if start is not None:
        models = [model["name"] for model in start.manifest.get("models", [])]
        content["start"] = {"sha256": start.sha256, "models": models}
    return content


def _fitted_start(start: ImageSet, zoo: Zoo) -> ImageSet:
    """The images to start from, with labels in the classes of the zoo."""
    if tuple(start.images.shape[1:]) != zoo.input_shape:
        raise InputError(
            f"the images to start from have shape {tuple(start.images.shape[1:])}, expected "
            f"{zoo.input_shape}, the shape of the zoo"
        )
    return start.with_classes(zoo.label_space)


class _Progress:
    """Counts the iterations of all threads, and reports them one at a time."""

    def __init__(self, on_progress: Progress, total: int) -> None:
        self._on_progress, self._total, self._done = on_progress, total, 0
        self._lock = Lock()

    def advance(self, iterations: int) -> None:
        with self._lock:
            self._done += iterations
            self._on_progress("synthesizing", self._done / max(1, self._total))
