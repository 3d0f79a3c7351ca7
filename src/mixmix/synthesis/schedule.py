"""How many shards are made at a time, and with how many threads each.

Small operations gain little from a second thread, so that two shards side by side with one thread
each are faster than one after the other with two. Sums depend on the number of threads, in their
last bits: it is a function of the machine and the settings alone, never of the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixmix import distributed
from mixmix.machine import memory_bytes, usable_cpus
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.zoo.teacher import Teacher
from mixmix.zoo.zoo import Zoo

__all__ = ["Schedule", "plan", "schedule", "shard_bytes"]

# Where the system does not tell.
_ASSUMED_MEMORY = 8 * 2**30
# Gradients, temporaries and what the allocator cannot reuse; 1.2 to 1.5 were measured.
_BYTES_PER_SAVED_BYTE = 2


@dataclass(frozen=True)
class Schedule:
    """Shards made at a time in this process, and torch threads for each."""

    shards_at_once: int
    threads_per_shard: int


def plan(zoo: Zoo, settings: SynthesisSettings, *, threads: int | None = None) -> Schedule:
    """The schedule of a run on this machine.

    Args:
        zoo: on a CPU, shards run side by side; on other devices, one after the other.
        settings: the number of images and the batch size give the number of shards.
        threads: of the machine, for all shards and all of its processes. By default
            ``torch.get_num_threads()``, or under ``torchrun``, which gives one thread to each of
            its processes, the number of usable processors.
    """
    if threads is None:
        threads = usable_cpus() if distributed.launched() else torch.get_num_threads()
    num_shards = -(-settings.num_images // settings.batch_size)
    if zoo.device.type != "cpu":
        return Schedule(1, threads)
    # One shard at a time needs no estimate, which takes a forward pass of every network. Several
    # need that pass for another reason too: what a network prepares when it is first observed,
    # such as its graph, cannot be prepared by two threads at a time.
    alone = min(num_shards, threads) == 1 or settings.iterations == 0
    return schedule(
        num_shards,
        threads,
        shard_bytes=0 if alone else shard_bytes(zoo, settings),
        memory=memory_bytes() or _ASSUMED_MEMORY,
        num_processes=distributed.local_world_size(),
    )


def schedule(
    num_shards: int, threads: int, *, shard_bytes: int, memory: int, num_processes: int = 1
) -> Schedule:
    """Share threads and half of the memory among shards.

    Args:
        num_shards: of the whole run.
        threads: of the machine.
        shard_bytes: what a shard needs while it is made.
        memory: of the machine, in bytes; all of it, because what is free changes.
        num_processes: of this run on the machine, which share the shards made at a time. It has no
            influence on the threads of a shard.
    """
    capacity = memory // 2 // max(1, shard_bytes)
    at_once = max(1, min(num_shards, threads, capacity))
    return Schedule(max(1, at_once // num_processes), max(1, threads // at_once))


def shard_bytes(zoo: Zoo, settings: SynthesisSettings) -> int:
    """An estimate of the memory that making one shard takes, in bytes.

    It is what autograd keeps for the networks of a step, the largest of them if they are drawn,
    with a margin.
    """
    shape, precision = zoo.input_shape, settings.precision
    sizes = sorted((_saved_bytes(teacher, shape, precision) for teacher in zoo), reverse=True)
    return settings.batch_size * _BYTES_PER_SAVED_BYTE * sum(sizes[: settings.members_per_step])


def _saved_bytes(teacher: Teacher, shape: tuple[int, int, int], precision: str) -> int:
    """Bytes per image (C, H, W) that autograd keeps for the backward pass through a network."""
    weights = [*teacher.model.parameters(), *teacher.model.buffers()]
    shared = {tensor.untyped_storage().data_ptr() for tensor in weights}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in shared:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.full((2, *shape), 0.5, device=teacher.device, requires_grad=True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        # Kept until the end, so that no storage is freed and its address used again.
        observation = teacher.observe(images, precision=precision)
    del observation
    return sum(sizes.values()) // len(images)
