"""The shards of a run, in a folder or in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from mixmix.data.image_set import ImageSet, label_agreement, warn_if_labels_are_chance
from mixmix.data.shards import MANIFEST_NAME, Shard, read_manifest, shard_name, sidecar, sidecars
from mixmix.errors import DataError, InputError
from mixmix.models.zoo import Zoo
from mixmix.runtime import distributed
from mixmix.runtime.storage import write_json

__all__ = ["ShardStore"]


class ShardStore:
    """Stores finished shards, and collects them in a data set at the end; thread-safe.

    Until the end of a run, the manifest's entry of each shard is a file next to the shard, so that
    threads and processes need not wait for each other.

    Args:
        zoo: computes the soft labels of the stored pixels.
        manifest: how the run is made, without shards. It must not depend on when or how often the
            run was started, so that a resumed run ends with the same manifest.
        path: the folder, created with the first shard; None keeps the shards in memory.
    """

    def __init__(self, zoo: Zoo, manifest: Mapping[str, Any], path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self._zoo, self._manifest = zoo, dict(manifest)
        self._shards: dict[int, Shard] = {}
        self._entries: dict[int, dict[str, Any]] = {}
        self._lock = Lock()

    def missing(self, num_shards: int) -> list[int]:
        """Indices of the shards that are not finished, or damaged.

        Raises:
            InputError: if the folder holds a data set of another run.
            DataError: if its manifest cannot be read.
        """
        if self.path is None:
            return list(range(num_shards))
        if not (self.path / MANIFEST_NAME).exists():
            # It is unknown how these were made.
            for path in sidecars(self.path):
                path.unlink()
            return list(range(num_shards))
        earlier = read_manifest(self.path)
        self._check_same_run(earlier)
        hashes = {entry["file"]: entry["sha256"] for entry in earlier["shards"]}
        return [index for index in range(num_shards) if not _is_whole(self.path, index, hashes)]

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
            with self._lock:
                if not (self.path / MANIFEST_NAME).exists():
                    write_json(self.path / MANIFEST_NAME, self._manifest | {"shards": []})
            write_json(sidecar(self.path / name), entry)
        self._entries[index] = entry

    def finish(self) -> ImageSet:
        """Collect the shards of all processes in one data set.

        Warns if images were made for their labels, and these are predicted as rarely as by chance.
        """
        data = self._collected()
        settings = self._manifest["settings"]
        weights = [t["weight"] for t in settings.get("terms", ()) if t.get("term") == "ce"]
        if any(weights) and settings.get("iterations", 1) and self._zoo.headed:
            hits = int((data.soft_labels.argmax(1) == data.labels).sum())
            what = f"images are predicted as labeled by {', '.join(self._zoo.names)}"
            warn_if_labels_are_chance(hits, len(data), self._zoo.num_classes, what)
        return data

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

    def _write_manifest(self, folder: Path, made: Sequence[Mapping[str, Any]]) -> None:
        """Move all entries into the manifest, unless that has been done."""
        entries = {entry["file"]: entry for entry in (*read_manifest(folder)["shards"], *made)}
        beside = {*sidecars(folder), *(sidecar(folder / entry["file"]) for entry in made)}
        if beside:
            shards = [entries[name] for name in sorted(entries)]
            write_json(folder / MANIFEST_NAME, self._manifest | {"shards": shards})
            for path in beside:
                path.unlink(missing_ok=True)

    def _check_same_run(self, earlier: Mapping[str, Any]) -> None:
        now = self._manifest
        if earlier.get("settings") != now["settings"]:
            changes = _differences(earlier.get("settings"), now["settings"])
            how = f"made with other settings ({changes})"
        elif earlier.get("seed") != now["seed"]:
            how = f"made with another seed ({earlier.get('seed')}, now {now['seed']})"
        elif earlier.get("start") != now.get("start"):
            how = "started from other images"
        elif earlier.get("student") != now.get("student"):
            how = "made for another student"
        elif _model_facts(earlier, "sha256") != _model_facts(now, "sha256"):
            how = f"made from other networks ({', '.join(_model_facts(earlier, 'name'))})"
        else:
            return
        raise InputError(
            f"{self.path} contains a data set {how}; choose another folder, or remove that one"
        )


def _model_facts(manifest: Mapping[str, Any], key: str) -> list[str]:
    return [model.get(key, "?") for model in manifest.get("models", [])]


def _is_whole(folder: Path, index: int, hashes: Mapping[str, str]) -> bool:
    name = shard_name(index)
    try:
        Shard.load(folder / name, hashes[name])
    except (KeyError, DataError):
        return False
    return True


def _differences(before: Any, now: Mapping[str, Any]) -> str:
    if not isinstance(before, Mapping):
        return f"{before!r}, now {dict(now)}"
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return "; ".join(f"{key}: {before.get(key)}, now {now.get(key)}" for key in keys)
