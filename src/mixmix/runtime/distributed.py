"""Jobs of several processes (ranks), started by ``torchrun`` on one or more machines.

Without ``torchrun``, these functions do nothing.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mixmix.errors import InputError, RankError, first_line
from mixmix.runtime import seeding

__all__ = [
    "barrier",
    "data_parallel",
    "from_main",
    "gather",
    "global_batches",
    "is_main",
    "join",
    "launched",
    "leave",
    "local_device",
    "local_world_size",
    "process_group",
    "rank",
    "slice_of_batch",
    "stopping_together",
    "world_size",
]

T = TypeVar("T")

# For ranks that are still working; ranks that died close their connections.
_TIMEOUT = timedelta(days=1)


def launched() -> bool:
    """Whether this process belongs to a job, possibly of a single rank."""
    return _joined() or all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))


def rank() -> int:
    """Rank of this process in [0, world_size)."""
    return dist.get_rank() if _joined() else _variable("RANK", 0)


def world_size() -> int:
    """Number of processes of the job on all machines; 1 without ``torchrun``."""
    return dist.get_world_size() if _joined() else _variable("WORLD_SIZE", 1)


def local_world_size() -> int:
    """Number of processes of the job on this machine."""
    return _variable("LOCAL_WORLD_SIZE", world_size())


def is_main() -> bool:
    """Whether this process is rank 0, which prints and writes files."""
    return rank() == 0


def local_device(device: str) -> str:
    """The device of this rank: ``cuda`` becomes ``cuda:<local rank>``, others stay."""
    return f"cuda:{_variable('LOCAL_RANK', 0)}" if device == "cuda" and launched() else device


def join(device: str | torch.device = "cpu") -> None:
    """Initialize the process group, unless there is one or the job has a single process.

    Args:
        device: of this rank. The backend is gloo, and NCCL between GPUs.
    """
    if _joined() or world_size() == 1:
        return
    backend = "gloo"
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(torch.device(local_device(str(device))))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    atexit.register(leave)


def leave() -> None:
    """Destroy the process group, if there is one."""
    if _joined():
        dist.destroy_process_group()


@contextmanager
def process_group(device: str | torch.device = "cpu") -> Iterator[None]:
    """Context with a process group; see ``join``."""
    join(device)
    try:
        yield
    finally:
        leave()


def barrier() -> None:
    """Wait for all ranks.

    Raises:
        RankError: if one of them stopped.
    """
    if not _alone():
        _together(lambda: dist.barrier())


def from_main(make: Callable[[], T]) -> T:
    """The picklable result of ``make()`` in the main process, in every process.

    Raises:
        BaseException: in the main process, what ``make`` raises.
        RankError: in the others, if the main process raised an error or stopped.
    """
    if _alone():
        return make()
    if is_main():
        try:
            box: list[Any] = [make(), None]
        except BaseException as error:
            reason = first_line(error)
            _together(lambda: dist.broadcast_object_list([None, reason], src=0))
            raise
    else:
        box = [None, None]
    _together(lambda: dist.broadcast_object_list(box, src=0))
    if box[1] is not None:
        raise RankError(f"the main process stopped: {box[1]}")
    result: T = box[0]
    return result


@contextmanager
def stopping_together() -> Iterator[None]:
    """Context whose errors end the process group, so that no other rank waits for this one."""
    try:
        yield
    except BaseException:
        leave()
        raise


def gather(value: T) -> list[T]:
    """The picklable values of all ranks, in order, in every rank.

    Raises:
        RankError: if one of them stopped.
    """
    if _alone():
        return [value]
    values: list[Any] = [None] * world_size()
    _together(lambda: dist.all_gather_object(values, value))
    return values


def data_parallel(model: nn.Module) -> nn.Module:
    """The model in ``DistributedDataParallel``, or itself in a single process.

    With ``global_batches`` and a loss that is a mean over samples, optimizer steps are those of one
    process, up to rounding. BatchNorm must be in eval mode, since a rank sees only its slice of the
    batch; dropout draws differ between ranks.

    Args:
        model: on this rank's device, with at least one parameter that requires gradients; it
            shares its parameters with the result.
    """
    device = next(model.parameters()).device
    join(device)
    if not _joined():
        return model
    wrapped: nn.Module = nn.parallel.DistributedDataParallel(
        model, device_ids=[device] if device.type == "cuda" else None
    )
    return wrapped


def global_batches(
    num_samples: int, batch_size: int, *, num_steps: int, seed: int
) -> Iterator[Tensor]:
    """This rank's slice of every batch of a training run.

    The batches do not depend on the number of ranks: shuffled passes over the samples follow one
    another, and batches may span two of them.

    Args:
        num_samples: size of the data set.
        batch_size: samples in a step, over all ranks.
        num_steps: number of batches.
        seed: of the order.

    Yields:
        Indices (batch_size / world_size,) into the data set.

    Raises:
        InputError: if a number is below 1, or ``batch_size`` is no multiple of the world size.
    """
    if num_samples < 1 or batch_size < 1:
        raise InputError(
            f"batches need at least one sample, got {num_samples} samples and batch size "
            f"{batch_size}"
        )
    waiting, passes = torch.empty(0, dtype=torch.long), 0
    for _ in range(num_steps):
        while len(waiting) < batch_size:
            generator = seeding.generator(seed, "pass", passes)
            waiting = torch.cat([waiting, torch.randperm(num_samples, generator=generator)])
            passes += 1
        yield slice_of_batch(waiting[:batch_size])
        waiting = waiting[batch_size:]


def slice_of_batch(batch: Tensor) -> Tensor:
    """This rank's slice (N / world_size, ...) of a batch (N, ...).

    Raises:
        InputError: if N is no multiple of the world size; gradients are averaged over ranks.
    """
    size, rest = divmod(len(batch), world_size())
    if rest:
        raise InputError(
            f"a batch of {len(batch)} cannot be divided equally among {world_size()} processes; "
            "choose a multiple of that number"
        )
    return batch[rank() * size : (rank() + 1) * size]


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _alone() -> bool:
    join()
    return not _joined()


def _variable(name: str, default: int) -> int:
    """A number that ``torchrun`` sets in the environment."""
    return int(os.environ[name]) if launched() and name in os.environ else default


def _together(communicate: Callable[[], Any]) -> None:
    try:
        communicate()
    except RuntimeError as error:
        raise RankError(
            "another process of this run stopped; see its message, and run the same command again "
            "to resume"
        ) from error
