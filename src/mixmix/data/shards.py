"""Files of an image set: safetensors shards and a manifest of how they were made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixmix.errors import DataError
from mixmix.runtime.storage import read_json, read_tensors, sha256_of_file, write_tensors

__all__ = [
    "FORMAT",
    "MANIFEST_NAME",
    "Shard",
    "read_manifest",
    "read_sidecars",
    "shard_name",
    "sidecar",
]

MANIFEST_NAME = "manifest.json"
_SHARD_NAME = re.compile(r"shard-\d{5,}\.safetensors")
FORMAT = "mixmix-synthetic-images/1"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Shard:
    """A batch: images (N, C, H, W) uint8, labels (N,), soft labels (N, K)."""

    images: Tensor
    labels: Tensor
    soft_labels: Tensor

    def save(self, path: Path) -> str:
        """Write atomically, and return the SHA-256 of the file."""
        return write_tensors(path, vars(self))

    @classmethod
    def load(cls, path: Path, sha256: str) -> Shard:
        """Read a file with this SHA-256.

        Raises:
            DataError: if the file is missing, truncated or changed.
        """
        try:
            found = sha256_of_file(path)
        except FileNotFoundError as error:
            raise DataError(f"shard {path.name} is missing") from error
        except OSError as error:
            raise DataError(f"shard {path.name} cannot be read: {error.strerror}") from error
        if found != sha256:
            raise DataError(
                f"shard {path.name} is corrupt: its SHA-256 is {found[:12]}..., the manifest says "
                f"{sha256[:12]}..."
            )
        tensors, _ = read_tensors(path)
        if set(tensors) != {"images", "labels", "soft_labels"}:
            raise DataError(
                f"shard {path.name} contains {', '.join(sorted(tensors))}, expected images, labels "
                "and soft_labels"
            )
        shard = cls(**tensors)
        images, labels, soft = shard.images, shard.labels, shard.soft_labels
        if (
            (images.dtype, images.ndim) != (torch.uint8, 4)
            or (labels.dtype, labels.ndim) != (torch.int64, 1)
            or (soft.dtype, soft.ndim) != (torch.float32, 2)
            or not len(images) == len(labels) == len(soft)
        ):
            raise DataError(
                f"shard {path.name} contains {images.dtype} images {tuple(images.shape)}, "
                f"{labels.dtype} labels {tuple(labels.shape)} and {soft.dtype} soft labels "
                f"{tuple(soft.shape)}, expected uint8 (N, C, H, W), int64 (N,), float32 (N, K)"
            )
        return shard


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"shard-{index:05d}{_SUFFIX}"


def sidecar(shard: Path) -> Path:
    """The file with the entry of a shard that is not in the manifest yet."""
    return shard.with_suffix(".json")


def read_sidecars(folder: Path, run: str) -> dict[str, dict[str, Any]]:
    """Entries of shards that are not in the manifest yet, by the names of the shards.

    Args:
        folder: of the shards.
        run: identifies the run. Files of other runs and programs, and damaged ones are left out.
    """
    return dict(_entries_beside(folder, run))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, with the entries of files next to shards added to ``shards``.

    Raises:
        DataError: if it cannot be read, has another format, or ``shards`` is malformed or names
            files outside of the folder.
    """
    path = folder / MANIFEST_NAME
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise DataError(f"{path} has format {manifest.get('format')!r}, expected {FORMAT!r}")
    shards = manifest.get("shards")
    if not isinstance(shards, list) or not all(_is_entry(shard) for shard in shards):
        raise DataError(
            f"{path} lists no shards with file and sha256; it is damaged: remove the folder, and "
            "run 'mixmix synthesize' again"
        )
    models, classes = manifest.get("models", []), manifest.get("classes", [])
    if not isinstance(models, list) or not all(isinstance(each, dict) for each in models):
        raise DataError(f"{path} is damaged: models must be a list of tables")
    if not all(isinstance(each.get("name", ""), str) for each in models):
        raise DataError(f"{path} is damaged: names of models must be text")
    for own in (classes, *(each.get("classes") or [] for each in models)):
        if not isinstance(own, list) or not all(isinstance(name, str) for name in own):
            raise DataError(f"{path} is damaged: classes must be a list of names")
    for key in ("settings", "versions", "machine"):
        if not isinstance(manifest.get(key, {}), dict):
            raise DataError(f"{path} is damaged: {key} must be a table")
    for entry in shards:
        if not _SHARD_NAME.fullmatch(entry["file"]):
            raise DataError(
                f"{path} lists {entry['file']!r}, which is no shard in its folder; it is damaged "
                "or was edited"
            )
    # Entries next to shards are newer.
    entries = {entry["file"]: entry for entry in shards}
    entries |= read_sidecars(folder, str(manifest.get("run")))
    return manifest | {"shards": [entries[name] for name in sorted(entries)]}


def _entries_beside(folder: Path, run: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.glob("shard-*.json")):
        # A shard with a damaged entry counts as missing.
        with suppress(DataError):
            entry = read_json(path)
            name = path.with_suffix(_SUFFIX).name
            if _is_entry(entry) and entry["file"] == name and entry.pop("run", None) == run:
                yield name, entry


def _is_entry(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    number, agreement = value.get("num_images", 0), value.get("label_agreement", 0.0)
    return (
        all(isinstance(value.get(key), str) for key in ("file", "sha256"))
        and type(number) is int
        and number >= 0
        and (agreement is None or isinstance(agreement, int | float))
        and isinstance(value.get("losses") or [], list)
    )
