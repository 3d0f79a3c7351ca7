"""What a run reads: networks and images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixmix._display import printable

if TYPE_CHECKING:
    from mixmix import ImageSet, Zoo
    from mixmix.models.spec import ModelSpec

__all__ = ["labeled_images", "load_images", "load_zoo"]

_CIFAR10_FILES = ("test_batch", "test_batch.png", "cifar-10-batches-py")


def load_images(folders: Sequence[Path]) -> ImageSet:
    """Images of all folders; shards that cannot be read are left out with a warning."""
    from mixmix import ImageSet

    loaded = [ImageSet.load(folder) for folder in folders]
    images = loaded[0] if len(loaded) == 1 else ImageSet.join(loaded)
    for reason in images.refused.values():
        print(printable(f"warning: left out: {reason}"), file=sys.stderr)
    return images


def load_zoo(references: Sequence[str], device: str, weights: Sequence[float] | None = None) -> Zoo:
    """Load networks; prints which of them are used without their labels."""
    from mixmix import Zoo

    zoo = Zoo.load(references, weights=weights, device=device)
    for member in zoo.members:
        if member.why:
            text = f"note: {member.model.spec.name} contributes {member.role}"
            print(printable(text), file=sys.stderr)
    return zoo


def labeled_images(folder: Path | None, spec: Callable[[], ModelSpec]) -> Any:
    """Images and labels as ``evaluate`` takes them.

    Args:
        folder: CIFAR-10, or a folder with a subfolder of images for each class; None is the bundled
            test images of CIFAR-10.
        spec: returns the spec of the evaluated model.

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
