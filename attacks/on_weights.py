"""Attacks by checkpoints: pickles and safetensors."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from attacks.attack import Commands, attack
from attacks.networks import rewritten, write_spec


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments, *([state] if state else []))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def _read(folder: Path, content: Any, name: str = "w.pth") -> Commands:
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        torch.save(content, folder / name)
    write_spec(
        folder / "s.json",
        **{"source": "torchvision:squeezenet1_1", "weights": name, "input_shape": [3, 64, 64]},
    )
    return [["zoo", "show", "s.json"]]


@attack("pth")
def pickled_eval(folder: Path, code: str) -> Commands:
    """A pickle that calls eval."""
    return _read(folder, {"state_dict": {"x": torch.ones(1)}, "args": Call(eval, code)})


@attack("pth")
def pickled_exec_in_older_format(folder: Path, code: str) -> Commands:
    """A pickle that calls exec, in the format before zip archives."""
    buffer = io.BytesIO()
    torch.save({"x": Call(exec, code)}, buffer, _use_new_zipfile_serialization=False)
    return _read(folder, buffer.getvalue())


@attack("pth")
def pickled_system(folder: Path, code: str) -> Commands:
    """A pickle that runs a command."""
    import os

    return _read(folder, {"x": Call(os.system, f'python -c "{code}"')})


@attack("pth")
def pickled_getattr(folder: Path, code: str) -> Commands:
    """A pickle that looks up a function."""
    return _read(folder, {"x": Call(getattr, Call(__import__, "os"), "getcwd")})


@attack("pth")
def pickled_function_of_torch(folder: Path, code: str) -> Commands:
    """A pickle that calls a function of torch which evaluates source."""
    return _read(folder, {"x": Call(torch.jit.CompilationUnit, code)})


@attack("pth")
def pickled_module(folder: Path, code: str) -> Commands:
    """A whole module with a hostile state."""
    return _read(folder, torch.nn.Linear(2, 2))


@attack("pth")
def claimed_storage(folder: Path, code: str) -> Commands:
    """A tensor that claims more bytes than its entry has."""
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(65535)}, buffer)

    def change(name: str, content: bytes) -> bytes:
        return bytes(8) if name == "data/0" else content

    return _read(folder, rewritten(buffer.getvalue(), change))


@attack("pth")
def bomb_of_weights(folder: Path, code: str) -> Commands:
    """Compressed entries."""
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(10**6)}, buffer)
    return _read(
        folder,
        rewritten(buffer.getvalue(), lambda n, c: c, compression=zipfile.ZIP_DEFLATED),
    )


@attack("pth")
def buffer_of_terabytes(folder: Path, code: str) -> Commands:
    """A buffer of terabytes from a number."""
    return _read(folder, {"x": Call(bytearray, 2**40)})


@attack("pth")
def storage_of_terabytes_in_older_format(folder: Path, code: str) -> Commands:
    """A tensor that claims terabytes, in the format before zip archives."""
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(104)}, buffer, _use_new_zipfile_serialization=False)
    return _read(folder, buffer.getvalue().replace(b"Kh", b"\x8a\x06\0\0\0\0\0\1"))


@attack("pth")
def entries_of_one_name(folder: Path, code: str) -> Commands:
    """Two pickles of one name, of which readers may see different ones."""
    import pickle
    import warnings

    buffer = io.BytesIO()
    torch.save({"x": torch.ones(4)}, buffer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        added = {"data.pkl": pickle.dumps(Call(eval, code))}
        return _read(folder, rewritten(buffer.getvalue(), lambda n, c: c, added))


@attack("pth")
def damaged_entry(folder: Path, code: str) -> Commands:
    """A weight with one other bit, and the checksum of the right one."""
    buffer = io.BytesIO()
    torch.save({"x": torch.full((100,), 0.123)}, buffer)
    content, pattern = buffer.getvalue(), struct.pack("<f", 0.123) * 4
    return _read(folder, content.replace(pattern, pattern[:-1] + b"\x7f", 1))


def _safetensors(folder: Path, header: dict[str, Any] | bytes, size: int | None = None) -> Commands:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = struct.pack("<Q", len(text) if size is None else size)
    return _read(folder, length + text + bytes(64), "w.safetensors")


@attack("safetensors")
def header_of_exabytes(folder: Path, code: str) -> Commands:
    """A header that claims 2^62 bytes."""
    return _safetensors(folder, {}, 2**62)


@attack("safetensors")
def tensor_of_exabytes(folder: Path, code: str) -> Commands:
    """A tensor that claims 2^60 values."""
    entry = {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}
    return _safetensors(folder, {"x": entry})


@attack("safetensors")
def overlapping_tensors(folder: Path, code: str) -> Commands:
    """Two tensors in the same bytes."""
    entry = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}
    return _safetensors(folder, {"x": entry, "y": entry})


@attack("safetensors")
def nested_header(folder: Path, code: str) -> Commands:
    """A header nested 100,000 levels deep."""
    return _safetensors(folder, b'{"x":' * 100_000 + b"1" + b"}" * 100_000)


@attack("safetensors")
def names_for_terminals(folder: Path, code: str) -> Commands:
    """Names of weights with escape sequences."""
    return _read(folder, save({"\x1b[2J\x1b]0;owned\x07\u202e": torch.ones(1)}), "w.safetensors")
