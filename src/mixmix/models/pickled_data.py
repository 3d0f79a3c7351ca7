"""Checkpoints of training scripts: tensors, and everything else as inert data.

Training scripts save their arguments, optimizers and losses beside the weights. Classes of other
packages are read as objects without content, which run no code; functions and classes of the
standard library are refused, but for those that are data.
"""

from __future__ import annotations

import argparse
import collections
import mmap
import pathlib
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixmix.errors import DataError, InputError, raise_if_out_of_memory
from mixmix.runtime.archives import StoredArchive

__all__ = ["Inert", "read_pickled"]

_BUILTINS = (b"builtins", b"__builtin__")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_PATHS = {
    f"{module}.{kind}": pure
    for module in ("pathlib", "pathlib._local")
    for kind, pure in (
        ("Path", pathlib.PurePosixPath),
        ("PosixPath", pathlib.PurePosixPath),
        ("PurePosixPath", pathlib.PurePosixPath),
        ("WindowsPath", pathlib.PureWindowsPath),
        ("PureWindowsPath", pathlib.PureWindowsPath),
    )
}
# What numpy pickles its numbers by; its module has moved.
_scalar = np.float64(0).__reduce__()[0]
_DATA: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace,
    "types.SimpleNamespace": argparse.Namespace,
    "collections.defaultdict": collections.defaultdict,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.set": set,
    "builtins.int": int,
    "builtins.float": float,
    "numpy.dtype": np.dtype,
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{
        f"numpy.dtypes.{kind.__name__}": kind
        for kind in (type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV")
    },
    **_PATHS,
}

# Parts of torch and of the standard library whose objects training scripts save.
_INERT_PARTS = (
    *("torch.nn.", "torch.optim.", "torch.amp.", "torch.cuda.amp.", "torch.utils.data."),
    *("datetime.", "decimal.", "fractions.", "functools.partial", "torch.torch_version."),
    *(f"builtins.{kind}" for kind in ("bool", "bytes", "range", "slice", "str", "tuple", "type")),
    *(
        f"__builtin__.{kind}"
        for kind in ("bool", "bytes", "xrange", "slice", "unicode", "tuple", "type")
    ),
)


class Inert:
    """An object of an unknown class in a checkpoint; it keeps nothing and runs nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_pickled(path: Path) -> Any:
    """The content of a file of ``torch.save``.

    Raises:
        DataError: if it is damaged, or refers to functions.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    is_zip = start == _ZIP
    if not is_zip and start[:1] != _PICKLE:
        raise DataError(f"{path} was not written by torch.save: it begins with {start!r}")
    if is_zip:
        _refuse_other_archives(path)
        try:
            StoredArchive(path).check_sums()
        except DataError as error:
            raise DataError(f"{path} is damaged: {error}; copy it again") from error
    with _refusals(path):
        return _read(path, is_zip=is_zip)


def _read(path: Path, *, is_zip: bool) -> Any:
    names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)) if is_zip else []
    if _mentions_buffers(path):
        raise DataError(f"{path} has a bytearray, which may take any memory; leave it out")
    own = sys.stdlib_module_names | {"torch", "__builtin__"}
    refused = [
        name
        for name in names
        if name not in _DATA and name.partition(".")[0] in own and not name.startswith(_INERT_PARTS)
    ]
    if refused:
        raise DataError(
            f"{path} refers to {', '.join(refused[:3])}, which can run code; load it in your own "
            "code if you trust it, and save model.state_dict() alone"
        )
    known: list[Any] = [
        (_DATA[name] if name in _DATA else type("Inert", (Inert,), {"origin": name}), name)
        for name in names
    ]
    with torch.serialization.safe_globals([*known, *((v, k) for k, v in _DATA.items())]):
        # Mapped files have views of the bytes that there are, whatever sizes the pickle claims.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def _mentions_buffers(path: Path) -> bool:
    """Whether pickles of a file refer to ``bytearray``, which makes gigabytes from a number."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(b"c%s\nbytearray\n" % name) >= 0 for name in _BUILTINS)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """One line for what PyTorch refuses in many, or fails at."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols, which are refused
            yield
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} {_why_refused(str(error))}") from error
    except (InputError, OSError):
        raise
    except Exception as error:  # of sizes and arguments that do not fit, and of missing parts
        asked = re.search(r"tried to allocate (\d+) bytes", str(error))
        if asked is None or int(asked[1]) <= path.stat().st_size:
            raise_if_out_of_memory(error)
        raise DataError(
            f"{path} is damaged, or was not written by torch.save; copy it again, or save "
            "model.state_dict() by torch.save"
        ) from error


def _refuse_other_archives(path: Path) -> None:
    """Zip archives of other kinds, which are not damaged."""
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise DataError(
                f"{path} is a TorchScript program; load it by torch.jit.load in your own code, and "
                "save its state_dict() by torch.save"
            )
        if any(name.endswith(".npy") for name in names):
            raise DataError(f"{path} contains arrays of NumPy; save tensors by torch.save")


def _why_refused(message: str) -> str:
    """Why PyTorch does not load a pickle, from its message of many lines, and what to do."""
    if "Unsupported operand" in message or "pickle protocol" in message:
        return (
            "is a pickle of another kind or protocol than torch.save writes; save "
            "model.state_dict() by torch.save"
        )
    refused = re.search(r"Unsupported (?:global|class):? (?:GLOBAL )?([\w.]+)", message)
    if refused is not None:
        return (
            f"refers to {refused[1]}, and its older format keeps such objects from being left "
            "out; load it in your own code, and save model.state_dict() alone"
        )
    return "is no checkpoint of plain tensors; save model.state_dict() by torch.save"
