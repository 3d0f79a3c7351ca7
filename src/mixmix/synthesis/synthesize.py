"""Synthesis shard by shard: every finished batch is on disk before the next one starts."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixmix import seeding
from mixmix.errors import DataError, InputError
from mixmix.storage import read_json, write_json
from mixmix.synthesis.dataset import FORMAT, MANIFEST_NAME, Shard, SyntheticDataset, listed_shards
from mixmix.synthesis.initial import balanced_labels
from mixmix.synthesis.loop import optimise_batch
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.zoo.zoo import Zoo

__all__ = ["synthesize"]


def synthesize(
    zoo: Zoo,
    settings: SynthesisSettings | None = None,
    *,
    seed: int,
    out: str | Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> SyntheticDataset:
    """Synthesise a labelled data set from a zoo of pretrained networks and no data.

    Args:
        zoo: the networks to invert together.
        settings: ``SynthesisSettings()`` unless given; ``recipe(name)`` gives known ones.
        seed: the same seed, zoo, settings, machine and number of threads give the same bits.
        out: folder for the shards. A run that was interrupted resumes where it was and ends with
            the same bits as one that was not; a finished one is only read. None keeps the images
            in memory.
        on_progress: called with (iterations done, iterations in all).

    Returns:
        The data set; its manifest says how it was made.

    Raises:
        InputError: if ``out`` holds a data set made in another way, or cannot be written; if the
            settings ask for nothing that these networks have.
    """
    settings = settings or SynthesisSettings()
    run = _Run(zoo, settings, seed, None if out is None else Path(out))
    labels = balanced_labels(settings.num_images, zoo.num_classes).split(settings.batch_size)
    total = len(labels) * settings.iterations
    done = 0
    shards = []
    for index, batch_labels in enumerate(labels):
        shard = run.finished_shard(index)
        if shard is not None:
            done += settings.iterations
        else:

            def advance() -> None:
                nonlocal done
                done += 1
                on_progress(done, total)

            shard = run.make_shard(index, batch_labels, advance)
        on_progress(done, total)
        shards.append(shard)
    return SyntheticDataset.from_shards(shards, run.manifest, path=run.folder)


class _Run:
    """One run and its folder: which shards are finished, and the manifest that lists them."""

    def __init__(
        self, zoo: Zoo, settings: SynthesisSettings, seed: int, folder: Path | None
    ) -> None:
        self.zoo, self.settings, self.seed, self.folder = zoo, settings, seed, folder
        # Nothing here depends on when or how often the run was started, so that a resumed run
        # writes the same manifest as an uninterrupted one.
        self.manifest: dict[str, Any] = {
            "format": FORMAT,
            "models": [teacher.spec.to_dict() for teacher in zoo],
            "settings": settings.to_dict(),
            "seed": seed,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "machine": {
                "device": str(zoo.device),
                "processor": platform.machine(),
                "threads": torch.get_num_threads(),
            },
            "shards": [],
        }
        if folder is not None and (folder / MANIFEST_NAME).exists():
            self._adopt(read_json(folder / MANIFEST_NAME), folder)

    def _adopt(self, earlier: dict[str, Any], folder: Path) -> None:
        for key in ("format", "settings", "seed"):
            if earlier.get(key) != self.manifest[key]:
                raise InputError(
                    f"{folder} holds a data set made with other {key} ({earlier.get(key)}, now "
                    f"{self.manifest[key]}); choose another folder, or remove that one"
                )
        hashes = [model.get("sha256") for model in earlier.get("models", [])]
        if hashes != [teacher.spec.sha256 for teacher in self.zoo]:
            names = ", ".join(model.get("name", "?") for model in earlier.get("models", []))
            raise InputError(
                f"{folder} holds a data set made from other networks ({names}); choose another "
                "folder, or remove that one"
            )
        listed_shards(earlier, folder)
        self.manifest["shards"] = list(earlier["shards"])

    def finished_shard(self, index: int) -> Shard | None:
        """The shard if it is listed and whole; one that was damaged is made again."""
        if self.folder is None or index >= len(self.manifest["shards"]):
            return None
        entry = self.manifest["shards"][index]
        try:
            return Shard.load(self.folder / entry["file"], entry["sha256"])
        except DataError:
            return None

    def make_shard(self, index: int, labels: Tensor, on_step: Callable[[], None]) -> Shard:
        batch = optimise_batch(
            self.zoo,
            labels,
            self.settings,
            generator=seeding.generator(self.seed, "shard", index),
            on_step=on_step,
        )
        pixels = (batch.images * 255).round().to(torch.uint8).cpu()
        soft_labels = self.zoo.soft_labels(pixels.float() / 255)
        shard = Shard(pixels, labels, soft_labels)
        agreement = (
            float((soft_labels.argmax(1) == labels).float().mean()) if soft_labels.numel() else None
        )
        entry: dict[str, Any] = {
            "file": f"shard-{index:05d}.safetensors",
            "num_images": len(labels),
            "label_agreement": agreement,
            "losses": batch.trace,
        }
        if self.folder is not None:
            entry["sha256"] = shard.save(self.folder / entry["file"])
        self.manifest["shards"][index : index + 1] = [entry]
        if self.folder is not None:
            write_json(self.folder / MANIFEST_NAME, self.manifest)
        return shard
