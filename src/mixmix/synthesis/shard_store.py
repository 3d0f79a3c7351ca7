"""The shards of a run, in a folder or in memory."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixmix.data.flips import LEAST_AGREEMENT, flip_agreement
from mixmix.data.image_set import ImageSet
from mixmix.data.labels import label_agreement, warn_if_labels_are_chance
from mixmix.data.shards import (
    MANIFEST_NAME,
    Shard,
    read_manifest,
    read_sidecars,
    shard_name,
    sidecar,
)
from mixmix.errors import DataError, InputError, warn
from mixmix.models.zoo import Zoo
from mixmix.runtime import distributed
from mixmix.runtime.run_folder import check_same_run, locked_folder
from mixmix.runtime.storage import check_writable, sha256_of_json, write_record

__all__ = ["ShardStore"]

_NOT_OF_RUN = ("shards", "versions", "machine", "run", "flip_agreement")
# Files that a run writes, besides the manifest.
_OWN = re.compile(r"shard-\d{5,}\.(safetensors|json)|generator\.safetensors")


class ShardStore:
    """Stores finished shards, and collects them in a data set at the end; thread-safe.

    A context manager, in which the folder belongs to the run, and no other process works in it.

    Until the end of a run, the manifest's entry of each shard is a file next to the shard, so that
    threads and processes need not wait for each other.

    Args:
        zoo: computes the soft labels of the stored pixels.
        manifest: how the run is made, without shards. It must not depend on when or how often the
            run was started, so that a resumed run ends with the same manifest.
        path: the folder; None keeps the shards in memory.
    """

    def __init__(self, zoo: Zoo, manifest: Mapping[str, Any], path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self._zoo, self._manifest = zoo, dict(manifest)
        self._manifest["run"] = sha256_of_json(_run_of(manifest))
        self._shards: dict[int, Shard] = {}
        self._entries: dict[int, dict[str, Any]] = {}
        self._resources = ExitStack()

    def __enter__(self) -> ShardStore:
        """Claim the folder, before any work.

        Raises:
            InputError: if it holds a data set of another run or files of an unknown one, another
                process works in it, or it cannot be written.
            DataError: if its manifest cannot be read.
        """
        if self.path is not None:
            distributed.from_main(self._claim)
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    @property
    def run(self) -> str:
        """Identifies the run."""
        return str(self._manifest["run"])

    @property
    def num_added(self) -> int:
        """Number of shards that this process has stored."""
        return len(self._entries)

    def missing(self, num_shards: int, *, images_per_shard: int) -> list[int]:
        """Indices of the shards that are not finished, or damaged.

        Raises:
            InputError: if there is no space for them.
        """
        if self.path is None:
            return list(range(num_shards))
        entries = read_manifest(self.path)["shards"]
        hashes = {entry["file"]: entry["sha256"] for entry in entries}
        missing = [index for index in range(num_shards) if not _is_whole(self.path, index, hashes)]
        if missing:
            image_bytes = math.prod(self._zoo.input_shape) + 4 * self._zoo.num_classes
            num_bytes = len(missing) * images_per_shard * image_bytes
            check_writable(self.path / MANIFEST_NAME, num_bytes)
        return missing

    def add(
        self, index: int, images: Tensor, labels: Tensor, losses: Sequence[Mapping[str, float]]
    ) -> None:
        """Store a shard: images (N, C, H, W) in [0, 1], labels (N,), losses by name."""
        pixels = (images * 255).round().to(torch.uint8).cpu()
        soft_labels = self._zoo.soft_labels(pixels.float() / 255)
        shard, name = Shard(pixels, labels, soft_labels), shard_name(index)
        entry = {
            "file": name,
            "num_images": len(labels),
            "label_agreement": label_agreement(soft_labels, labels),
            "losses": list(losses),
        }
        if self.path is None:
            self._shards[index] = shard
        else:
            entry["sha256"] = shard.save(self.path / name)
            write_record(sidecar(self.path / name), entry | {"run": self.run})
        self._entries[index] = entry

    def finish(self) -> ImageSet:
        """Collect the shards of all processes in one data set.

        Warns if images were made for their labels, and these are predicted as rarely as by chance,
        and if images were mirrored, and change class by that.
        """
        data = self._collected()
        settings = self._manifest["settings"]
        weights = [t["weight"] for t in settings.get("terms", ()) if t.get("term") == "ce"]
        if any(weights) and settings.get("iterations", 1) and self._zoo.headed:
            hits = int((data.soft_labels.argmax(1) == data.labels).sum())
            what = f"images are predicted as labeled by {', '.join(self._zoo.names)}"
            warn_if_labels_are_chance(hits, len(data), self._zoo.num_classes, what)
        undecided = any(model.spec.flip is None for model in self._zoo)
        if settings.get("flip") and undecided and self._zoo.may_flip:
            self._judge_flips(data)
        return data

    def _judge_flips(self, data: ImageSet) -> None:
        """Add the fraction of images that keep their class when mirrored to the manifest."""
        known = data.manifest.get("flip_agreement")
        share = distributed.from_main(lambda: known or flip_agreement(self._zoo.soft_labels, data))
        if share is None:
            return
        data.manifest["flip_agreement"] = share
        if self.path is not None and known is None and distributed.is_main():
            write_record(self.path / MANIFEST_NAME, data.manifest)
        if share < LEAST_AGREEMENT:
            warn(
                f"only {100 * share:.0f}% of the images keep their class when mirrored, as they "
                "were during synthesis; set flip=False of a spec (--no-flip), or flip=True if "
                "mirrored images keep their class"
            )

    def _collected(self) -> ImageSet:
        if self.path is None:
            order = sorted(self._shards)
            shards = [self._shards[index] for index in order]
            entries = [self._entries[index] for index in order]
            return ImageSet.from_shards(shards, self._manifest | {"shards": entries})
        # A shared folder may be slow to list what another machine has written.
        made = [e for entries in distributed.gather(list(self._entries.values())) for e in entries]
        if distributed.is_main():
            self._write_manifest(self.path, made)
        distributed.barrier()
        data = ImageSet.load(self.path)
        if data.refused:
            raise DataError(
                f"{self.path}: {'; '.join(data.refused.values())}; processes on several machines "
                "need a shared folder"
            )
        return data

    def _claim(self) -> None:
        assert self.path is not None
        path = self.path / MANIFEST_NAME
        is_claimed = self._check_same_run()
        self._resources.enter_context(locked_folder(path))
        # Another process may have claimed it in the meantime.
        if not is_claimed and not self._check_same_run():
            unknown = [each.name for each in self.path.iterdir() if _OWN.fullmatch(each.name)]
            if unknown:
                raise InputError(
                    f"{self.path} contains {min(unknown)}, but no {MANIFEST_NAME} that tells how "
                    "it was made; choose another folder, or remove that file"
                )
            write_record(path, self._manifest | {"shards": []})

    def _write_manifest(self, folder: Path, made: Sequence[Mapping[str, Any]]) -> None:
        """Move all entries into the manifest, unless that has been done."""
        entries = {entry["file"]: entry for entry in (*read_manifest(folder)["shards"], *made)}
        beside = {*read_sidecars(folder, self.run), *(each["file"] for each in made)}
        if beside:
            shards = [entries[name] for name in sorted(entries)]
            write_record(folder / MANIFEST_NAME, self._manifest | {"shards": shards})
            for name in beside:
                sidecar(folder / name).unlink(missing_ok=True)

    def _check_same_run(self) -> bool:
        """Whether the folder belongs to this run; False if to none."""
        assert self.path is not None
        if not os.path.lexists(self.path / MANIFEST_NAME):
            return False
        before, now = (_run_of(each) for each in (read_manifest(self.path), self._manifest))
        check_same_run(before, now, f"{self.path} contains a data set made")
        return True


def _run_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What tells runs apart; not where weights were read from, which have hashes."""
    run = {key: value for key, value in manifest.items() if key not in _NOT_OF_RUN}
    models = run.get("models")
    if isinstance(models, list) and all(isinstance(each, Mapping) for each in models):
        run["models"] = [
            {key: value for key, value in each.items() if key != "weights"} for each in models
        ]
    return run


def _is_whole(folder: Path, index: int, hashes: Mapping[str, str]) -> bool:
    name = shard_name(index)
    try:
        Shard.load(folder / name, hashes[name])
    except (KeyError, DataError):
        return False
    return True
