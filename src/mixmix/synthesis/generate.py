"""Thousands of images from a generator that learns as it goes, round by round into a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from mixmix.data.image_set import ImageSet
from mixmix.data.shards import FORMAT
from mixmix.errors import InputError
from mixmix.models.loading import Reference
from mixmix.models.zoo import Zoo
from mixmix.runtime import distributed
from mixmix.runtime.allocator import keeping_freed_memory
from mixmix.runtime.storage import read_tensors, write_tensors
from mixmix.synthesis.amortized import AmortizedSynthesizer
from mixmix.synthesis.amortized_settings import AmortizedSettings
from mixmix.synthesis.folder import RunFolder
from mixmix.synthesis.kept import KeptShards
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
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImageSet:
    """Synthesize many images of which each batch takes a few steps (see ``amortized``).

    They are less exact than those of ``synthesize``, and take fewer steps. Training wants many;
    calibration and reconstruction want few and good ones.

    Args:
        zoo: the networks to invert together: a ``Zoo``, or whatever ``Zoo.load`` takes, such as
            ``["bundled:vgg", "bundled:vovnet"]``.
        settings: ``AmortizedSettings()`` unless given.
        num_images: how many are kept.
        seed: the same seed, zoo, settings and machine give the same bits.
        warmup_rounds: before any image is kept, while the generator learns.
        out: folder for the shards. A run that was interrupted goes on behind its last round. None
            keeps the images in memory.
        on_progress: called with (rounds done, rounds in all).

    Returns:
        The data set; its manifest says how it was made.

    Raises:
        InputError: if ``out`` holds a data set made in another way or cannot be written; if there
            are several processes; if a number is out of range.

    Examples:
        >>> batch = mixmix.recipe("mixmix", batch_size=8, iterations=1)
        >>> quick = mixmix.AmortizedSettings(batch, batches_at_once=1, num_latents=8)
        >>> images = mixmix.generate("bundled:vgg", quick, num_images=8, warmup_rounds=0, seed=0)
        >>> len(images)
        8
    """
    zoo = Zoo.load(zoo)
    settings = settings or AmortizedSettings()
    for name, value, least in (("num_images", num_images, 1), ("warmup_rounds", warmup_rounds, 0)):
        if not isinstance(value, int) or value < least:
            raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
    if distributed.world_size() > 1:
        raise InputError(
            f"a generator learns in one process, {distributed.world_size()} were started; start it "
            "without torchrun"
        )
    asked = settings.to_dict() | {"num_images": num_images, "warmup_rounds": warmup_rounds}
    manifest = {"format": FORMAT, "settings": asked, "seed": seed} | provenance(zoo)
    folder = None if out is None else RunFolder(Path(out), manifest)
    path = None if folder is None else folder.path / _STATE
    kept, size = KeptShards(zoo, folder), settings.objective.batch_size
    num_shards = -(-num_images // size)
    missing = list(range(num_shards)) if folder is None else folder.missing(num_shards)
    synthesizer = AmortizedSynthesizer(zoo, settings, seed=seed)
    if path is not None and path.exists():
        state, _ = read_tensors(path)
        ahead = (int(state["rounds_done"]) - warmup_rounds) * settings.batches_at_once
        # A shard that was lost since needs all rounds once more, which give the same.
        if not any(index < ahead for index in missing):
            synthesizer.load(state)
    num_rounds = warmup_rounds + -(-num_images // settings.images_per_round)
    while missing and synthesizer.rounds_done < num_rounds:
        on_progress(synthesizer.rounds_done, num_rounds)
        first = (synthesizer.rounds_done - warmup_rounds) * settings.batches_at_once
        for index, batch in enumerate(synthesizer.make(), first):
            if index in missing:
                count = min(size, num_images - index * size)
                kept.keep(index, batch.images[:count], batch.labels[:count], [batch.losses])
        if path is not None and first >= 0:
            write_tensors(path, synthesizer.tensors(), {})
    on_progress(num_rounds, num_rounds)
    if folder is None or path is None:
        return kept.in_memory(manifest)
    folder.finish([kept.entries[index] for index in sorted(kept.entries)])
    path.unlink(missing_ok=True)
    return ImageSet.load(folder.path)
