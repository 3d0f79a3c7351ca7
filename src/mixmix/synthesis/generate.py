"""Synthesis of many images with a generator, round by round."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from mixmix._display import shorten
from mixmix.data.image_set import ImageSet
from mixmix.data.shards import FORMAT
from mixmix.errors import DataError, InputError
from mixmix.models.loading import Reference
from mixmix.models.zoo import Zoo
from mixmix.runtime import distributed
from mixmix.runtime.allocator import keeping_freed_memory
from mixmix.runtime.progress import Progress, showing
from mixmix.runtime.storage import read_tensors, write_tensors
from mixmix.synthesis.amortized import AmortizedSynthesizer
from mixmix.synthesis.amortized_settings import AmortizedSettings
from mixmix.synthesis.gradients import check_gradients
from mixmix.synthesis.shard_store import ShardStore
from mixmix.synthesis.synthesize import provenance

__all__ = ["generate"]

_STATE = "generator.safetensors"


@keeping_freed_memory()
def generate(
    zoo: Zoo | Reference | Iterable[Reference],
    settings: AmortizedSettings | None = None,
    *,
    num_images: int,
    seed: int = 0,
    warmup_rounds: int = 20,
    out: str | Path | None = None,
    on_progress: Progress | None = None,
) -> ImageSet:
    """Synthesize many images, with a few optimizer steps per batch (FastDFKD, Fang et al. 2022).

    The images match their zoo less exactly than those of ``synthesize``. Use them for training,
    which needs many images; calibration and reconstruction need fewer but better ones.

    Args:
        zoo: the networks to invert: a ``Zoo``, or references as for ``Zoo.load``, such as
            ``["bundled:vgg", "bundled:vovnet"]``.
        settings: of the generator and its losses.
        num_images: number of images to keep.
        seed: the same seed, zoo, settings and machine give bitwise identical images.
        warmup_rounds: rounds that train the generator before any image is kept.
        out: folder for the images. An interrupted run resumes after its last round. None keeps the
            images in memory.
        on_progress: called with (a description, fraction of the rounds done); None shows progress
            on standard error.

    Returns:
        The images; the manifest records how they were made.

    Raises:
        InputError: if ``out`` contains the data set of another run or cannot be written; if there
            are several processes; if a number is out of range.

    >>> settings = mixmix.AmortizedSettings(steps=2, batch_size=8)
    >>> mixmix.generate("bundled:vgg", settings, num_images=16, warmup_rounds=0)
    ImageSet(images=16, shape=(3, 32, 32), classes=10, from=..., label_agreement=...)
    """
    zoo, settings = Zoo.load(zoo), AmortizedSettings() if settings is None else settings
    if not isinstance(settings, AmortizedSettings):
        raise InputError(f"settings must be AmortizedSettings, got {shorten(repr(settings))}")
    for name, value, least in (("num_images", num_images, 1), ("warmup_rounds", warmup_rounds, 0)):
        if not isinstance(value, int) or value < least:
            raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
    if distributed.world_size() > 1:
        raise InputError(
            f"generate runs in one process, got {distributed.world_size()}; start it without "
            "torchrun"
        )
    check_gradients(zoo)
    counts = {"num_images": num_images, "warmup_rounds": warmup_rounds}
    manifest = {"format": FORMAT, "settings": settings.to_dict() | counts, "seed": seed}
    size, per_round = settings.batch_size, settings.batches_at_once
    with (
        ShardStore(zoo, manifest | provenance(zoo), out) as store,
        showing("generating", on_progress) as advance,
    ):
        missing = store.missing(-(-num_images // size), images_per_shard=size)
        synthesizer = AmortizedSynthesizer(zoo, settings, seed=seed)
        state_path = None if store.path is None else store.path / _STATE
        if state_path is not None:
            state = _read_state(state_path, store.run)
            num_passed = (int(state.get("rounds_done", 0)) - warmup_rounds) * per_round
            # A damaged shard of an earlier round needs all rounds again.
            if state and not any(index < num_passed for index in missing):
                synthesizer.load(state)
        num_rounds = warmup_rounds + -(-num_images // settings.images_per_round)
        while missing and synthesizer.rounds_done < num_rounds:
            advance("generating", synthesizer.rounds_done / max(1, num_rounds))
            first = (synthesizer.rounds_done - warmup_rounds) * per_round
            for index, batch in enumerate(synthesizer.make(), first):
                if index in missing:
                    count = min(size, num_images - index * size)
                    store.add(index, batch.images[:count], batch.labels[:count], [batch.losses])
            if state_path is not None and first >= 0:
                write_tensors(state_path, synthesizer.tensors(), {"run": store.run})
        advance("generating", 1.0)
        data = store.finish()
        if state_path is not None:
            state_path.unlink(missing_ok=True)
        return data


def _read_state(path: Path, run: str) -> dict[str, Tensor]:
    """The state after a round; empty if there is none of this run, or it is damaged."""
    try:
        state, metadata = read_tensors(path)
    except DataError:
        return {}
    return state if metadata.get("run") == run else {}
