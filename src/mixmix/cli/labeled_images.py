"""Labeled images for an evaluation: CIFAR-10 in its usual forms, or a folder for each class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixmix.models.spec import ModelSpec

__all__ = ["labeled_images"]

_CIFAR10_FILES = ("test_batch", "test_batch.png", "cifar-10-batches-py")


def labeled_images(folder: Path | None, spec: Callable[[], ModelSpec]) -> Any:
    """Images and labels as ``evaluate`` takes them.

    Args:
        folder: of CIFAR-10, or with a subfolder of images for each class; None takes the bundled
            test images of CIFAR-10.
        spec: gives the spec of the model that is evaluated.

    Raises:
        DataError: if the folder holds neither.
    """
    from mixmix.demo.cifar10 import load_cifar10, load_evaluation_pack
    from mixmix.evaluate.image_folder import ImageFolder

    if folder is None:
        return load_evaluation_pack()
    if any((folder / name).exists() for name in _CIFAR10_FILES) or spec().label_set == "cifar10":
        return load_cifar10(folder, split="test")
    return ImageFolder(folder, spec())
