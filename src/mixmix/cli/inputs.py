"""What a run reads: networks and images."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixmix._display import printable
from mixmix.errors import InputError, translate_errors, warn

if TYPE_CHECKING:
    from mixmix import ImageSet, Zoo
    from mixmix.models.loading import Reference
    from mixmix.models.spec import ModelSpec

__all__ = ["labeled_images", "load_images", "load_zoo"]

# Arguments of ``load`` that networks cannot share.
_OF_ONE = {"reference", "name", "weights", "device"}


def load_images(folders: Sequence[Path]) -> ImageSet:
    """Images of all folders; shards that cannot be read are left out with a warning."""
    from mixmix import ImageSet

    loaded = [ImageSet.load(folder) for folder in folders]
    images = loaded[0] if len(loaded) == 1 else ImageSet.join(loaded)
    if images.refused:
        first, *others = images.refused.values()
        more = f", and {len(others)} more" if others else ""
        warn(f"left out: {first}{more}; repeat the command that made the images")
    return images


def load_zoo(
    references: Iterable[Reference],
    device: str,
    weights: Sequence[float] | None = None,
    spec: Mapping[str, Any] | None = None,
) -> Zoo:
    """Load networks; prints which of them are used without their labels.

    Args:
        references: the networks.
        device: to run on.
        weights: see ``Zoo``.
        spec: fields of the specs of all networks.

    Raises:
        InputError: if a network cannot be loaded, or there is no such field.
    """
    from mixmix import Zoo, load

    given, known = spec or {}, sorted(inspect.signature(load).parameters.keys() - _OF_ONE)
    if not given.keys() <= set(known):
        unknown = ", ".join(sorted(given.keys() - set(known)))
        raise InputError(f"unknown keys in [spec]: {unknown}; known: {', '.join(known)}")
    zoo = Zoo([load(each, device=device, **given) for each in references], weights=weights)
    for member in zoo.members:
        if member.why:
            text = f"note: {member.model.spec.name} contributes {member.role}"
            print(printable(text), file=sys.stderr)
    return zoo


def labeled_images(folder: Path | None, spec: Callable[[], ModelSpec]) -> Any:
    """Images and labels as ``evaluate`` takes them.

    Args:
        folder: with a subfolder of images for each class, or with the ``cifar-10-batches-py`` of
            CIFAR-10; None is the bundled test images of CIFAR-10.
        spec: returns the spec of the evaluated model.

    Raises:
        DataError: if the folder holds neither.
    """
    from mixmix.demo.cifar10 import load_evaluation_pack
    from mixmix.evaluate.image_folder import ImageFolder

    if folder is None:
        return load_evaluation_pack()
    if (folder / "cifar-10-batches-py").is_dir():
        return _test_split_of_cifar10(folder)
    return ImageFolder(folder, spec())


def _test_split_of_cifar10(folder: Path) -> Any:
    import torch

    from mixmix.models.sources.source import require

    datasets = require("torchvision.datasets", "CIFAR-10", "torchvision")
    with translate_errors(f"cannot read CIFAR-10 in {folder}", "unpack its archive again"):
        data = datasets.CIFAR10(folder, train=False)
    return torch.from_numpy(data.data).permute(0, 3, 1, 2), torch.tensor(data.targets)
