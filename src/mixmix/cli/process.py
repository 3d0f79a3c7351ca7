"""The process that a command runs in: device, threads, progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mixmix.errors import InputError, RankError

if TYPE_CHECKING:
    from mixmix import ImageSet, Zoo
    from mixmix.synthesis.schedule import Schedule

__all__ = ["load_images", "load_zoo", "prepare", "print_schedule", "progress_bar"]


def prepare(device: str, threads: int | None, *, together: bool = False) -> None:
    """Check the device and set up the process for long numerical work.

    Args:
        device: where the command works.
        threads: of torch, or None for its default.
        together: whether several processes of ``torchrun`` can share this command.

    Raises:
        InputError: if the device is not there, or the command is for one process and this is the
            main one of several.
        RankError: if it is another one of them.
    """
    import torch

    from mixmix.runtime import distributed
    from mixmix.runtime.allocator import keep_freed_memory

    if not together and distributed.world_size() > 1:
        message = (
            f"this command works in one process, torchrun started {distributed.world_size()}; "
            "start it without torchrun"
        )
        raise InputError(message) if distributed.is_main() else RankError(message)
    keep_freed_memory()
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads must be >= 1, got {threads}")
        torch.set_num_threads(threads)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used: {reason}; use --device cpu") from error


def load_images(folders: Sequence[Path]) -> ImageSet:
    """The images of all folders; warns of shards that cannot be read, and leaves them out."""
    from mixmix import ImageSet

    loaded = [ImageSet.load(folder) for folder in folders]
    images = loaded[0] if len(loaded) == 1 else ImageSet.join(loaded)
    for reason in images.refused.values():
        print(f"warning: left out: {reason}", file=sys.stderr)
    return images


def load_zoo(references: Sequence[str], weights: Sequence[float] | None, device: str) -> Zoo:
    """The networks of these references; prints which of them take part without their labels."""
    from mixmix import Zoo

    zoo = Zoo.load(references, weights=weights or None, device=device)
    for member in zoo.members:
        if member.why:
            print(f"note: {member.teacher.spec.name} takes part by {member.role}", file=sys.stderr)
    return zoo


def print_schedule(schedule: Schedule) -> None:
    """Print what is synthesized at a time, and the memory that it takes."""
    from mixmix.runtime import distributed

    if not distributed.is_main() or not schedule.peak_bytes:
        return
    chunks = "" if schedule.chunk_size is None else f", {schedule.chunk_size} images per pass"
    print(
        f"batches in parallel: {schedule.shards_at_once}{chunks}; about "
        f"{schedule.peak_bytes / 2**30:.2f} GiB at the peak, in addition to the networks",
        file=sys.stderr,
    )


@contextmanager
def progress_bar(title: str, *, shown: bool = True) -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error, advanced by (current activity, fraction done in [0, 1])."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda what, fraction: progress.update(task, description=what, completed=fraction)
