"""The folder of a run: which shards are finished, in whatever order, by whichever process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from mixmix.data.shards import MANIFEST_NAME, Shard, read_manifest, shard_name, sidecar, sidecars
from mixmix.errors import DataError, InputError
from mixmix.runtime.storage import write_json

__all__ = ["RunFolder"]


class RunFolder:
    """A folder that fills with shards and their entries, and ends with a manifest of all.

    While a run is unfinished, the entry of a shard lies beside it in a file of its own, so that
    threads and processes need not wait for each other, and the manifest says how the run is made.
    The end of the run gathers the entries in the manifest, in order.

    Args:
        path: is made with the first shard.
        manifest: how this run is made, without shards. Nothing in it depends on when or how often
            the run was started, so that a resumed run ends with the same manifest.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self._manifest = dict(manifest)
        self._lock = Lock()

    def missing(self, num_shards: int) -> list[int]:
        """The shards to make: those that are not listed, and those that were damaged.

        Raises:
            InputError: if the folder holds a data set made in another way.
            DataError: if its manifest cannot be read.
        """
        if not (self.path / MANIFEST_NAME).exists():
            # Nothing says how these were made.
            for path in sidecars(self.path):
                path.unlink()
            return list(range(num_shards))
        earlier = read_manifest(self.path)
        self._check_same_run(earlier)
        hashes = {entry["file"]: entry["sha256"] for entry in earlier["shards"]}
        return [index for index in range(num_shards) if not self._is_whole(index, hashes)]

    def save(self, index: int, shard: Shard, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Write a finished shard, then its entry, and return that; threads may do so at a time.

        Raises:
            InputError: if the folder cannot be written.
        """
        name = shard_name(index)
        sha256 = shard.save(self.path / name)
        with self._lock:
            if not (self.path / MANIFEST_NAME).exists():
                write_json(self.path / MANIFEST_NAME, self._manifest | {"shards": []})
        whole = {"file": name, **entry, "sha256": sha256}
        write_json(sidecar(self.path / name), whole)
        return whole

    def finish(self, made: Sequence[Mapping[str, Any]]) -> None:
        """Gather the entries in the manifest; does nothing if that has been done.

        Args:
            made: the entries of this run, of all processes; a shared folder may be slow to list
                what another machine has written.
        """
        manifest = read_manifest(self.path)
        entries = {entry["file"]: entry for entry in (*manifest["shards"], *made)}
        beside = {*sidecars(self.path), *(sidecar(self.path / entry["file"]) for entry in made)}
        if beside:
            shards = [entries[name] for name in sorted(entries)]
            write_json(self.path / MANIFEST_NAME, self._manifest | {"shards": shards})
            for path in beside:
                path.unlink(missing_ok=True)

    def _check_same_run(self, earlier: Mapping[str, Any]) -> None:
        settings, now = earlier.get("settings"), self._manifest["settings"]
        if settings != now:
            raise InputError(
                f"{self.path} holds a data set made with other settings "
                f"({_differences(settings, now)}); choose another folder, or remove that one"
            )
        if earlier.get("seed") != self._manifest["seed"]:
            raise InputError(
                f"{self.path} holds a data set made with another seed ({earlier.get('seed')}, now "
                f"{self._manifest['seed']}); choose another folder, or remove that one"
            )
        for key, other in (
            ("start", "started from other images"),
            ("student", "made for another student"),
        ):
            if earlier.get(key) != self._manifest.get(key):
                raise InputError(
                    f"{self.path} holds a data set that was {other}; choose another folder, or "
                    "remove that one"
                )
        hashes = [model.get("sha256") for model in earlier.get("models", [])]
        if hashes != [model["sha256"] for model in self._manifest["models"]]:
            names = ", ".join(model.get("name", "?") for model in earlier.get("models", []))
            raise InputError(
                f"{self.path} holds a data set made from other networks ({names}); choose another "
                "folder, or remove that one"
            )

    def _is_whole(self, index: int, hashes: Mapping[str, str]) -> bool:
        name = shard_name(index)
        try:
            Shard.load(self.path / name, hashes[name])
        except (KeyError, DataError):
            return False
        return True


def _differences(before: Any, now: Mapping[str, Any]) -> str:
    if not isinstance(before, Mapping):
        return f"{before!r}, now {dict(now)}"
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return "; ".join(f"{key}: {before.get(key)}, now {now.get(key)}" for key in keys)
