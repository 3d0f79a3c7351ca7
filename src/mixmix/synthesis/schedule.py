"""How many shards are made at a time, with how many threads each, and in how much memory.

Small operations gain little from a second thread, so that two shards side by side with one thread
each are faster than one after the other with two. Sums depend on the number of threads, in their
last bits: it is a function of the machine and the settings alone, never of the number of processes.

Where the memory is too small for one shard, its images pass a network in parts (see ``observing``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixmix.errors import InputError
from mixmix.models.member import Member
from mixmix.models.zoo import Zoo
from mixmix.runtime import distributed
from mixmix.runtime.machine import memory_bytes, usable_cpus
from mixmix.synthesis.observing import observe_member
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.terms.observation import BatchObservation, MemberObservation

__all__ = ["Schedule", "plan", "schedule", "shard_bytes"]

# Where the system does not tell.
_ASSUMED_MEMORY = 8 * 2**30
# Gradients, temporaries and what the allocator cannot reuse; 1.2 to 1.5 were measured.
_BYTES_PER_SAVED_BYTE = 2
# Images, their views, mixtures, gradients, the optimizer's moments and what the prior keeps; 25 to
# 40 float32 copies were measured.
_COPIES_OF_IMAGES = 35
# Of these, what the built-in prior keeps.
_COPIES_OF_PRIOR = 6


@dataclass(frozen=True)
class Schedule:
    """How a process makes its shards.

    Attributes:
        shards_at_once: made at a time.
        threads_per_shard: of torch.
        part: images of a shard that pass a network at a time; None: all.
        peak_bytes: of memory that all shards of the machine need at a time, beside the networks'
            weights; an estimate, 0 where none was made.
    """

    shards_at_once: int
    threads_per_shard: int
    part: int | None = None
    peak_bytes: int = 0


def plan(
    zoo: Zoo,
    settings: SynthesisSettings,
    *,
    threads: int | None = None,
    memory_gib: float | None = None,
) -> Schedule:
    """The schedule of a run on this machine.

    Also prepares the networks, which two threads cannot do at a time.

    Args:
        zoo: on a CPU, shards run side by side; on other devices, one after the other.
        settings: the number of images and the batch size give the number of shards.
        threads: of the machine, for all shards and all of its processes. By default
            ``torch.get_num_threads()``, or under ``torchrun``, which gives one thread to each of
            its processes, the number of usable processors.
        memory_gib: to stay within, GiB; by default half of what the device has.

    Raises:
        InputError: if ``memory_gib`` is too little for a single image.
    """
    if threads is None:
        threads = usable_cpus() if distributed.launched() else torch.get_num_threads()
    if settings.iterations == 0:
        return Schedule(1, threads)
    on_cpu = zoo.device.type == "cpu"
    num_shards = -(-settings.num_images // settings.batch_size) if on_cpu else 1
    for teacher in zoo:
        for scale in settings.scales:
            teacher.prepare(scale=scale, precision=settings.precision)
    budget = _device_bytes(zoo.device) // 2 if memory_gib is None else int(memory_gib * 2**30)
    of_images = settings.batch_size * _COPIES_OF_IMAGES * 4 * math.prod(zoo.input_shape)
    of_shard = shard_bytes(zoo, settings)
    part = None
    if of_images + of_shard > budget:
        of_one = of_shard // settings.batch_size
        part = max(1, min(settings.batch_size, (budget - of_images) // max(1, of_one)))
        if memory_gib is not None and of_images + part * of_one > budget:
            raise InputError(
                f"memory_gib is {memory_gib}, but one image at a time in batches of "
                f"{settings.batch_size} takes {(of_images + of_one) / 2**30:.2f} GiB; allow that "
                "much, or lower batch_size"
            )
        of_shard = part * of_one
    found = schedule(
        num_shards,
        threads,
        shard_bytes=of_images + of_shard,
        memory=2 * budget,
        num_processes=distributed.local_world_size() if on_cpu else 1,
    )
    at_once = _fitting(num_shards, threads, of_images + of_shard, budget)
    return replace(found, part=part, peak_bytes=at_once * (of_images + of_shard))


def _device_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return memory_bytes() or _ASSUMED_MEMORY


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
    at_once = _fitting(num_shards, threads, shard_bytes, memory // 2)
    return Schedule(max(1, at_once // num_processes), max(1, threads // at_once))


def _fitting(num_shards: int, threads: int, shard_bytes: int, budget: int) -> int:
    """Shards that the whole machine makes at a time, in a budget of bytes."""
    return max(1, min(num_shards, threads, budget // max(1, shard_bytes)))


def shard_bytes(zoo: Zoo, settings: SynthesisSettings) -> int:
    """An estimate of the memory that making one shard takes, in bytes.

    It is what autograd keeps for the networks of a step, the largest of them if they are drawn, and
    for the terms of the loss, with a margin. A student is not counted.
    """
    found = [_saved_bytes(zoo, member, settings) for member in zoo.members]
    sizes = sorted((network + terms for network, terms in found), reverse=True)
    return settings.batch_size * _BYTES_PER_SAVED_BYTE * sum(sizes[: settings.members_per_step])


def _saved_bytes(zoo: Zoo, member: Member, settings: SynthesisSettings) -> tuple[int, int]:
    """Bytes per image that autograd keeps for a network, and for the terms that look at it.

    What terms take of tokens counts with the network; what the prior keeps, with the images.
    """
    shape, terms = zoo.input_shape, settings.weighed_terms
    weights = [*member.model.module.parameters(), *member.model.module.buffers()]
    images = torch.full((2, *shape), 0.5, device=zoo.device, requires_grad=True)
    with torch.enable_grad():
        with _SavedBytes(weights) as network:
            seen = observe_member(member, images, terms, precision=settings.precision)
        sizes = []
        for count in (1, 2):
            batch = _batch_of(zoo, seen, images, count)
            # Kept until the end, so that no storage is freed and its address used again.
            with _SavedBytes(weights) as kept:
                losses = [term.weighted(batch) for term in terms]
            sizes.append(kept.total)
            del losses
    of_terms = sizes[1] - sizes[0] - _COPIES_OF_PRIOR * 4 * math.prod(shape)
    return network.total // len(images), max(0, of_terms)


def _batch_of(zoo: Zoo, seen: MemberObservation, images: Tensor, count: int) -> BatchObservation:
    """The first images of what one network saw."""
    logits = None if seen.logits is None else seen.logits[:count]
    of_tokens = {kind: value[:count] for kind, value in seen.of_tokens.items()}
    some, labels = images[:count], torch.zeros(count, dtype=torch.long, device=images.device)
    box_fraction = torch.zeros(count, device=images.device)
    members = (replace(seen, logits=logits, of_tokens=of_tokens),)
    return BatchObservation(zoo, some, some, labels, labels, box_fraction, members)


class _SavedBytes:
    """Counts what autograd keeps while it is open: each storage once, ``shared`` ones never."""

    def __init__(self, shared: Sequence[Tensor]) -> None:
        self._shared = {tensor.untyped_storage().data_ptr() for tensor in shared}
        self._sizes: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept)

    @property
    def total(self) -> int:
        return sum(self._sizes.values())

    def __enter__(self) -> _SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._shared:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor
