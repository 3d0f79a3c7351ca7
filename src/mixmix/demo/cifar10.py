"""Bundled excerpts of CIFAR-10.

Real images are for evaluation (and the rows named ``real`` of the demo); compression does not read
them.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from mixmix.errors import DataError
from mixmix.runtime.storage import read_json

__all__ = ["load_calibration_pack", "load_evaluation_pack"]


def load_evaluation_pack() -> TensorDataset:
    """The bundled 1,000 images of the CIFAR-10 test split, 100 per class, in their original order.

    They are for evaluation only. With 1,000 images, a top-1 accuracy of 90% has a standard error
    of about one point; use the whole test split for published results.

    >>> image, label = mixmix.load_evaluation_pack()[0]
    >>> image.shape
    torch.Size([3, 32, 32])

    Returns:
        A dataset of (image, label): image (3, 32, 32) float32 in [0, 1], label an int64 scalar.

    Raises:
        DataError: if the files of the package are missing or damaged.

    Examples:
        >>> images, labels = mixmix.load_evaluation_pack().tensors
        >>> images.shape, labels.bincount().tolist()
        (torch.Size([1000, 3, 32, 32]), [100, 100, 100, 100, 100, 100, 100, 100, 100, 100])
    """
    return _read_pack(_pack_folder() / "cifar10_test_1000.png")


def load_calibration_pack() -> Tensor:
    """The bundled 256 images of the CIFAR-10 training split, for comparisons with real data only.

    Returns:
        Images (256, 3, 32, 32) float32 in [0, 1], without their labels.

    Raises:
        DataError: if the files of the package are missing or damaged.
    """
    return _read_pack(_pack_folder() / "cifar10_train_256.png").tensors[0]


def _pack_folder() -> Path:
    return Path(str(files("mixmix.demo"))) / "assets" / "evaluation"


def _read_pack(picture: Path) -> TensorDataset:
    """Read images, one in each row of a PNG, and the JSON with their labels and hash."""
    description = read_json(picture.with_suffix(".json"))
    try:
        with Image.open(picture) as image:
            rows = np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"cannot read {picture}: {error}; install mixmix again") from error
    if hashlib.sha256(rows.tobytes()).hexdigest() != description.get("sha256"):
        raise DataError(
            f"the pixels of {picture} do not match the hash in {picture.stem}.json; install mixmix "
            "again"
        )
    images = torch.from_numpy(rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2).copy())
    return TensorDataset(images.float() / 255, torch.tensor(description["labels"]))
