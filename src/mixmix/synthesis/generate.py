"""Thousands of images from a generator that learns as it goes, round by round into a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mixmix import distributed
from mixmix.allocator import keep_freed_memory
from mixmix.errors import InputError
from mixmix.storage import read_tensors, write_tensors
from mixmix.synthesis.amortised import AmortisedSettings, AmortisedSynthesiser, ImageBatch
from mixmix.synthesis.dataset import FORMAT, Shard, SyntheticDataset, shard_name
from mixmix.synthesis.folder import RunFolder
from mixmix.synthesis.synthesize import provenance
from mixmix.zoo.zoo import Zoo

__all__ = ["generate"]

_STATE = "generator.safetensors"


def generate(
    zoo: Zoo,
    settings: AmortisedSettings | None = None,
    *,
    num_images: int,
    seed: int,
    warmup_rounds: int = 20,
    out: str | Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> SyntheticDataset:
    """Synthesise many images of which each batch takes a few steps (see ``amortised``).

    They are less exact than those of ``synthesize``, and cost a tenth. Training wants many;
    calibration and reconstruction want few and good ones.

    Args:
        zoo: the networks to invert together.
        settings: ``AmortisedSettings()`` unless given.
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
    """
    settings = settings or AmortisedSettings()
    for name, value, least in (("num_images", num_images, 1), ("warmup_rounds", warmup_rounds, 0)):
        if not isinstance(value, int) or value < least:
            raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
    if distributed.world_size() > 1:
        raise InputError(
            f"a generator learns in one process, {distributed.world_size()} were started; start it "
            "without torchrun"
        )
    keep_freed_memory()
    asked = settings.to_dict() | {"num_images": num_images, "warmup_rounds": warmup_rounds}
    manifest = {"format": FORMAT, "settings": asked, "seed": seed} | provenance(zoo)
    run = _Run(zoo, settings, num_images, None if out is None else Path(out), manifest)
    synthesiser = AmortisedSynthesiser(zoo, settings, seed=seed)
    missing = run.missing()
    if run.state is not None and run.state.exists():
        state, _ = read_tensors(run.state)
        ahead = (int(state["rounds_done"]) - warmup_rounds) * settings.batches_at_once
        # A shard that was lost since needs all rounds once more, which give the same.
        if not any(index < ahead for index in missing):
            synthesiser.load(state)
    num_rounds = warmup_rounds + -(-num_images // settings.images_per_round)
    while missing and synthesiser.rounds_done < num_rounds:
        on_progress(synthesiser.rounds_done, num_rounds)
        first = (synthesiser.rounds_done - warmup_rounds) * settings.batches_at_once
        for index, batch in enumerate(synthesiser.make(), first):
            if index in missing:
                run.keep(index, batch)
        if run.state is not None and first >= 0:
            write_tensors(run.state, synthesiser.tensors(), {})
    on_progress(num_rounds, num_rounds)
    return run.finish()


class _Run:
    """The shards of a run, kept in a folder or in memory: one for each batch."""

    def __init__(
        self,
        zoo: Zoo,
        settings: AmortisedSettings,
        num_images: int,
        out: Path | None,
        manifest: Mapping[str, Any],
    ) -> None:
        self._zoo, self._num_images, self._manifest = zoo, num_images, manifest
        self._size = settings.objective.batch_size
        self._folder = None if out is None else RunFolder(out, manifest, before={})
        self.state = None if out is None else out / _STATE
        self._shards: dict[int, Shard] = {}
        self._entries: dict[int, dict[str, Any]] = {}

    def missing(self) -> list[int]:
        count = -(-self._num_images // self._size)
        return list(range(count)) if self._folder is None else self._folder.missing(count)

    def keep(self, index: int, batch: ImageBatch) -> None:
        count = min(self._size, self._num_images - index * self._size)
        images, labels = batch.images[:count], batch.labels[:count]
        soft_labels = self._zoo.soft_labels(images)
        shard = Shard((images * 255).round().byte(), labels, soft_labels)
        same = soft_labels.argmax(1) == labels if soft_labels.numel() else None
        entry = {
            "num_images": count,
            "label_agreement": None if same is None else float(same.float().mean()),
            "losses": [dict(batch.losses)],
        }
        if self._folder is None:
            self._shards[index], self._entries[index] = shard, entry
        else:
            self._entries[index] = self._folder.save(index, shard, entry)

    def finish(self) -> SyntheticDataset:
        order = sorted(self._entries)
        if self._folder is None:
            entries = [{"file": shard_name(index)} | self._entries[index] for index in order]
            shards = [self._shards[index] for index in order]
            return SyntheticDataset.from_shards(shards, {**self._manifest, "shards": entries})
        self._folder.finish([self._entries[index] for index in order])
        assert self.state is not None
        self.state.unlink(missing_ok=True)
        return SyntheticDataset.load(self._folder.path)
