"""The process that runs a command: device, threads, progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mixmix.errors import InputError, RankError, first_line

if TYPE_CHECKING:
    from mixmix.synthesis.schedule import Schedule

_MOST_THREADS = 4096

__all__ = ["prepare", "print_schedule", "progress_bar"]


def prepare(device: str, threads: int | None, *, distributed: bool) -> None:
    """Check the device and set up the process for long numerical work.

    Raises:
        InputError: if the device cannot be used, or in the main process of several if the command
            is not ``distributed``.
        RankError: in the other processes.
    """
    import torch

    from mixmix.runtime.allocator import keep_freed_memory
    from mixmix.runtime.distributed import is_main, world_size

    if not distributed and world_size() > 1:
        message = (
            f"this command works in one process, torchrun started {world_size()}; start it without "
            "torchrun"
        )
        raise InputError(message) if is_main() else RankError(message)
    keep_freed_memory()
    if threads is not None:
        if not 1 <= threads <= _MOST_THREADS:
            raise InputError(f"threads must be from 1 to {_MOST_THREADS}, got {threads}")
        torch.set_num_threads(threads)
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {device!r} cannot be used: {first_line(error)}; use --device cpu"
        ) from error


def print_schedule(schedule: Schedule) -> None:
    """Print how many images are synthesized at a time, and the memory that this takes."""
    from mixmix.runtime.distributed import is_main

    if not is_main() or not schedule.peak_bytes:
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
    from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

    # The spinner and the time move during long steps, too.
    columns = (SpinnerColumn(), *Progress.get_default_columns(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda what, fraction: progress.update(task, description=what, completed=fraction)
