"""Atomic writes, hashes, safetensors and JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from mixmix.errors import DataError, InputError, first_line

__all__ = [
    "read_json",
    "read_tensors",
    "sha256_of_file",
    "sha256_of_tensors",
    "tensors_below",
    "write_atomic",
    "write_json",
    "write_tensors",
]


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file such that readers see either the old or the new content.

    Raises:
        InputError: if the disk is full or the folder is not writable; no partial file remains.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise InputError(
            f"cannot write {path} ({len(content):,} bytes): {reason}; finished files are kept: fix "
            "this and run the same command again"
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically, indented, keys in the order given."""
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: if the file does not exist, or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path} as JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} contains a JSON {type(content).__name__}, expected an object")
    return content


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write a safetensors file atomically and return the SHA-256 of its bytes."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(contiguous, dict(metadata) if metadata else None)
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Raises:
        DataError: if the file does not exist, is truncated or not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except Exception as error:  # of other kinds for damaged headers, and types torch does not have
        raise DataError(f"cannot read {path} as safetensors: {first_line(error)}") from error


def tensors_below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names start with a prefix, by names without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of names, shapes, dtypes and bytes, in order of names: identifies a model."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        # As bytes, since numpy has no bfloat16; without values, there are no strides to view.
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
