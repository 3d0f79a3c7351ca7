"""Atomic writes, hashes, safetensors and JSON.

A hash inside of every safetensors file and JSON record that mixmix writes covers its content, so
that a changed byte is noticed when it is read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from mixmix.errors import DataError, InputError, first_line, raise_if_out_of_memory
from mixmix.runtime.file_locks import lock, remove_if_abandoned

__all__ = [
    "check_writable",
    "read_json",
    "read_tensors",
    "read_text",
    "remove_abandoned",
    "sha256_of_file",
    "sha256_of_json",
    "sha256_of_tensors",
    "tensors_below",
    "with_sorted_metadata",
    "write_atomic",
    "write_json",
    "write_record",
    "write_tensors",
]

_SEAL = "content_sha256"
_TEMPORARY = ".mixmix-tmp"
_RANDOM = r"[a-z0-9_]{8}"
# The size of a block, which a full disk does not have.
_TRIAL_BYTES = 4096


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file such that readers see either the old or the new content.

    A symbolic link is replaced; the file that it points to does not change. Temporary files that a
    killed process left for the same file are removed.

    Raises:
        InputError: if the disk is full, the folder is not writable, or the path is a folder or a
            special file; no partial file remains.
    """
    temporary = None
    try:
        _refuse_special(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, path.name)
        descriptor, temporary = _new_temporary(path)
        try:
            _write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            if os.name == "nt":  # open files cannot be renamed, and are not locked
                os.close(descriptor)
        try:
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        finally:
            if os.name != "nt":
                os.close(descriptor)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({len(content):,} bytes): {_reason(error)}; finished files are "
            "kept: fix this and run the same command again"
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def check_writable(path: Path, num_bytes: int = 0) -> None:
    """Check before long work that a file can be written; nothing is left behind.

    Args:
        path: of the file.
        num_bytes: space that is needed, as far as it is known.

    Raises:
        InputError: if it cannot be written, or there is less space.
    """
    try:
        _refuse_special(path)
        folder = next(each for each in path.absolute().parents if os.path.lexists(each))
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {_reason(error)}; choose another folder, or fix this and run "
            "the same command again"
        ) from error
    if num_bytes > free:
        raise InputError(
            f"{path} needs about {num_bytes / 2**20:,.1f} MiB, and {free / 2**20:,.1f} MiB are "
            f"free in {folder}; free some space, or choose another folder"
        )


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove temporary files that killed processes left in a folder.

    Args:
        folder: to look in; files that a running process writes, and those of other programs stay.
        name: only temporary files for the file of this name; None for all.
    """
    stem = ".*" if name is None else re.escape(_stem(name))
    pattern = re.compile(rf"\.{stem}\.{_RANDOM}{re.escape(_TEMPORARY)}")
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name):
                with suppress(OSError):
                    remove_if_abandoned(entry.path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically, indented, keys in the order given."""
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON as ``write_json`` does, with a hash that ``read_json`` checks."""
    write_json(path, {**content, _SEAL: sha256_of_json(content)})


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: if the file does not exist, is not a JSON object, or has a hash of other content.
    """
    try:
        content = json.loads(_read(path).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path} as JSON: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} contains a JSON {type(content).__name__}, expected an object")
    seal = content.pop(_SEAL, None)
    if seal is not None:
        _check_seal(path, seal, sha256_of_json(content))
    return content


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write a safetensors file atomically and return the SHA-256 of its bytes."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = dict(metadata or {})
    seal = {_SEAL: _seal_of_tensors(contiguous, about)}
    content = with_sorted_metadata(save(contiguous, about | seal))
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Raises:
        DataError: if the file does not exist, is truncated or not safetensors, or has a hash of
            other content.
    """
    try:
        os.close(_open_file(path))
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = dict(file.metadata() or {})
    except Exception as error:  # of other kinds for damaged headers, and types torch does not have
        raise_if_out_of_memory(error)
        raise DataError(f"cannot read {path} as safetensors: {_reason(error)}") from error
    seal = metadata.pop(_SEAL, None)
    if seal is not None:
        _check_seal(path, seal, _seal_of_tensors(tensors, metadata))
    return tensors, metadata


def tensors_below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names start with a prefix, by names without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: if it cannot be read, or is a folder or a special file.
    """
    digest = hashlib.sha256()
    with os.fdopen(_open_file(path), "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_json(content: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON content, whatever the order of its keys."""
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


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


def _seal_of_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    return sha256_of_json({"tensors": sha256_of_tensors(tensors), "metadata": metadata})


def with_sorted_metadata(content: bytes) -> bytes:
    """A safetensors file whose metadata, which have a random order, are sorted by key."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _check_seal(path: Path, wanted: object, found: str) -> None:
    if found != wanted:
        raise DataError(
            f"{path} is damaged or was edited: the SHA-256 of its content is {found[:12]}..., it "
            f"says {str(wanted)[:12]}..."
        )


def _stem(name: str) -> str:
    """The part of a file's name that its temporary files have; names must not get too long."""
    return name[:40]


def _new_temporary(path: Path) -> tuple[int, str]:
    """A new temporary file for a file, locked while this process writes it."""
    while True:
        descriptor, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{_stem(path.name)}.", suffix=_TEMPORARY
        )
        # Between its creation and the lock, another process may take it for abandoned.
        if lock(descriptor) and os.path.exists(temporary):
            return descriptor, temporary
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    """Make a rename last; not all file systems can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path) -> bytes:
    with os.fdopen(_open_file(path), "rb") as file:
        return file.read()


def read_text(path: Path) -> str:
    """The text of a regular file in UTF-8, without the mark that editors of Windows begin it with.

    Raises:
        OSError: if it cannot be read, or is a folder or a special file.
        ValueError: if it has another encoding.
    """
    return _read(path).decode("utf-8-sig")


def _open_file(path: Path) -> int:
    """Open a regular file for reading; to open a FIFO would wait for a writer."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is a {_kind(mode)}, expected a file")
    return descriptor


def _refuse_special(path: Path) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is a {_kind(mode)}")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "folder"
    return "FIFO" if stat.S_ISFIFO(mode) else "special file"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC:
            return "the disk is full"
        return error.strerror or str(error)
    return first_line(error)
