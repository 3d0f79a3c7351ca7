"""The process that runs a command: device, threads, plan."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mixmix.errors import InputError, RankError

if TYPE_CHECKING:
    from mixmix.synthesis.schedule import Schedule

_MOST_THREADS = 4096

__all__ = ["prepare", "print_schedule"]


def prepare(device: str, threads: int | None, *, distributed: bool) -> None:
    """Check the device and set up the process for long numerical work.

    Raises:
        InputError: if the device cannot be used, or in the main process of several if the command
            is not ``distributed``.
        RankError: in the other processes.
    """
    import torch

    from mixmix.runtime.allocator import keep_freed_memory
    from mixmix.runtime.devices import checked_device
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
    checked_device(device)


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
