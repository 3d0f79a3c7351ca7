"""Number of shards made in parallel, threads of each, and memory.

Small operations gain little from a second thread: two shards in parallel with one thread each are
faster than one after the other with two. The last bits of sums depend on the number of threads of a
shard, so this depends on the machine and the settings only, not on the number of processes.

If one shard does not fit into memory, networks process its images in chunks (see ``observing``).
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

# If the system does not report its memory.
_DEFAULT_MEMORY = 8 * 2**30
# For gradients, temporaries and fragmentation; 1.2 to 1.5 were measured.
_BYTES_PER_SAVED_BYTE = 2
# Float32 copies of the images: views, mixtures, gradients, optimizer states and what autograd saves
# for the prior; 25 to 40 were measured.
_COPIES_OF_IMAGES = 35
# Of these, saved for the built-in prior.
_COPIES_OF_PRIOR = 6


@dataclass(frozen=True)
class Schedule:
    """How a process makes its shards.

    Attributes:
        shards_at_once: shards in parallel.
        threads_per_shard: torch threads of each.
        chunk_size: images of a shard per forward pass; None: all.
        peak_bytes: estimated memory of all parallel shards on the machine, without the networks'
            weights; 0 if it was not estimated.
    """

    shards_at_once: int
    threads_per_shard: int
    chunk_size: int | None = None
    peak_bytes: int = 0


def plan(
    zoo: Zoo,
    settings: SynthesisSettings,
    *,
    threads: int | None = None,
    memory_gib: float | None = None,
) -> Schedule:
    """The schedule of a run on this machine.

    Also prepares the networks, which is not thread-safe.

    Args:
        zoo: the networks. Shards are made in parallel on a CPU only.
        threads: number of threads on this machine, for all shards and processes. By default
            ``torch.get_num_threads()``, or the number of usable processors under ``torchrun``,
            which sets one thread per process.
        memory_gib: memory limit in GiB; by default half of the device's memory.

    Raises:
        InputError: if ``memory_gib`` is too little for a single image.
    """
    if memory_gib is not None and not 0 < memory_gib < math.inf:
        raise InputError(f"memory_gib must be a finite number > 0, got {memory_gib}")
    if threads is None:
        threads = usable_cpus() if distributed.launched() else torch.get_num_threads()
    if settings.iterations == 0:
        return Schedule(1, threads)
    for teacher in zoo:
        for scale in settings.scales:
            teacher.prepare(scale=scale, precision=settings.precision)
    size = settings.batch_size
    budget = _device_bytes(zoo.device) // 2 if memory_gib is None else int(memory_gib * 2**30)
    image_bytes = size * _COPIES_OF_IMAGES * 4 * math.prod(zoo.input_shape)
    network_bytes = shard_bytes(zoo, settings)
    chunk_size = None
    if image_bytes + network_bytes > budget:
        per_image = network_bytes // size
        chunk_size = max(1, min(size, (budget - image_bytes) // max(1, per_image)))
        network_bytes = chunk_size * per_image
        if memory_gib is not None and image_bytes + network_bytes > budget:
            raise InputError(
                f"memory_gib is {memory_gib}, but batches of {size}, processed one image at a "
                f"time, take {(image_bytes + network_bytes) / 2**30:.2f} GiB; raise memory_gib, or "
                "lower batch_size"
            )
    on_cpu = zoo.device.type == "cpu"
    found = schedule(
        -(-settings.num_images // size) if on_cpu else 1,
        threads,
        shard_bytes=image_bytes + network_bytes,
        budget=budget,
        num_processes=distributed.local_world_size() if on_cpu else 1,
    )
    return replace(found, chunk_size=chunk_size)


def _device_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return memory_bytes() or _DEFAULT_MEMORY


def schedule(
    num_shards: int, threads: int, *, shard_bytes: int, budget: int, num_processes: int = 1
) -> Schedule:
    """Divide the threads of a machine and a budget of bytes among shards.

    ``num_processes`` of the run on this machine divide the parallel shards among them; it does not
    affect the threads of a shard.
    """
    at_once = max(1, min(num_shards, threads, budget // max(1, shard_bytes)))
    return Schedule(
        max(1, at_once // num_processes),
        max(1, threads // at_once),
        peak_bytes=at_once * shard_bytes,
    )


def shard_bytes(zoo: Zoo, settings: SynthesisSettings) -> int:
    """Estimated memory of one shard, in bytes, without the images.

    What autograd saves for the networks of a step (the largest of those that may be drawn) and for
    the terms of the loss, times a margin.
    """
    sizes = sorted((_saved_bytes(zoo, member, settings) for member in zoo.members), reverse=True)
    return settings.batch_size * _BYTES_PER_SAVED_BYTE * sum(sizes[: settings.members_per_step])


def _saved_bytes(zoo: Zoo, member: Member, settings: SynthesisSettings) -> int:
    """Bytes per image that autograd saves for a network and its terms, without the prior."""
    shape, terms = zoo.input_shape, settings.active_terms
    weights = [*member.model.module.parameters(), *member.model.module.buffers()]
    images = torch.full((2, *shape), 0.5, device=zoo.device, requires_grad=True)
    with torch.enable_grad():
        with _SavedBytes(weights) as network:
            seen = observe_member(member, images, precision=settings.precision)
        sizes = []
        for count in (1, 2):
            batch = _first_images(zoo, seen, images, count)
            with _SavedBytes(weights) as saved:
                losses = [term.weighted(batch) for term in terms]
            sizes.append(saved.total)
            del losses  # not before: addresses of freed storages are reused
    of_terms = sizes[1] - sizes[0] - _COPIES_OF_PRIOR * 4 * math.prod(shape)
    return network.total // len(images) + max(0, of_terms)


def _first_images(
    zoo: Zoo, seen: MemberObservation, images: Tensor, count: int
) -> BatchObservation:
    logits = None if seen.logits is None else seen.logits[:count]
    some, labels = images[:count], torch.zeros(count, dtype=torch.long, device=images.device)
    box_fraction = torch.zeros(count, device=images.device)
    members = (replace(seen, logits=logits),)
    return BatchObservation(zoo, some, some, labels, labels, box_fraction, members)


class _SavedBytes:
    """Context that counts the bytes saved by autograd: each storage once, ``shared`` ones never."""

    def __init__(self, shared: Sequence[Tensor]) -> None:
        self._shared = {tensor.untyped_storage().data_ptr() for tensor in shared}
        self._sizes: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved)

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
