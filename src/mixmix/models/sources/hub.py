"""Files of Hugging Face repositories: from a folder, from the cache, or from the hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixmix.errors import DataError, InputError, first_line, translate_errors
from mixmix.models.sources.source import require
from mixmix.runtime.storage import read_json

__all__ = ["hub_file", "hub_json", "hub_weights"]

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def hub_file(repository: str, name: str, *, required: bool = True) -> Path | None:
    """The path of a file of a repository.

    A cached file is used without asking the hub for a newer one.

    Args:
        repository: a local folder, or ``OWNER/NAME`` or ``OWNER/NAME@REVISION`` on the hub.
        name: of the file.
        required: whether an unreachable hub is an error.

    Returns:
        The path, or None if the repository has no such file.

    Raises:
        InputError: if there is no such repository, or it is neither cached nor downloadable.
    """
    if repository and Path(repository).is_dir():
        path = Path(repository) / name
        return path if path.is_file() else None
    hub = require("huggingface_hub", f"hf:{repository}", "'mixmix[hf]'")
    identifier, _, revision = repository.partition("@")
    file = {"repo_id": identifier, "filename": name, "revision": revision or None}
    with translate_errors(
        f"the hub has no repository {repository}", "expected OWNER/NAME or a folder"
    ):
        try:
            cached = hub.try_to_load_from_cache(**file)
            if cached is not None:
                return Path(cached) if isinstance(cached, str) else None
            with _without_warnings():
                return Path(hub.hf_hub_download(**file))
        except hub.errors.LocalEntryNotFoundError as error:
            if not required:
                return None
            raise InputError(
                f"{name} of {repository} is not in the cache and cannot be downloaded "
                f"({first_line(error.__cause__ or error)}); connect to the internet once, or give "
                "the path of a folder with the repository's files, hf:FOLDER, or a local weights "
                "file"
            ) from error
        except hub.errors.EntryNotFoundError:
            return None


def hub_json(repository: str, name: str, *, required: bool = True) -> dict[str, Any]:
    """A JSON object of a repository; empty if there is no such file.

    Raises:
        InputError: as ``hub_file``.
        DataError: if the file is not a JSON object.
    """
    path = hub_file(repository, name, required=required)
    return {} if path is None else read_json(path)


def hub_weights(repository: str) -> tuple[Path, ...]:
    """The safetensors files with the weights of a repository; several if they are in parts.

    Raises:
        InputError: if there are none.
        DataError: if the index of the parts is damaged.
    """
    whole = hub_file(repository, _WEIGHTS)
    if whole is not None:
        return (whole,)
    index = hub_file(repository, _INDEX)
    if index is None:
        raise InputError(
            f"{repository} has no {_WEIGHTS}; other formats can hold code and are not read: "
            "convert it, or use a local weights file"
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{index} is not an index of weights: {error}") from error
    parts = [hub_file(repository, name) for name in names if Path(name).name == name]
    found = tuple(part for part in parts if part is not None)
    if not found or len(found) < len(names):
        raise DataError(f"{index} names parts that {repository} does not have")
    return found


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the client's warning about each attempt; the final error says why."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
