"""What a run reads: networks and images."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixmix._display import printable
from mixmix.errors import InputError, first_line, translate_errors, warn

if TYPE_CHECKING:
    from mixmix import ImageSet, Model, Zoo
    from mixmix.cli.run_file import ModelSection
    from mixmix.models.loading import Reference
    from mixmix.models.spec import ModelSpec

__all__ = ["labeled_images", "load_images", "load_network", "load_zoo", "read_classes"]

# Arguments of ``load`` that networks cannot share.
_OF_ONE = {"reference", "name", "weights", "device"}
_MOST_PHOTOGRAPHS = 1024


def load_images(folders: Sequence[Path], model: Model | None = None) -> ImageSet:
    """Images of all folders; shards that cannot be read are left out with a warning.

    Args:
        folders: with images that mixmix wrote, or with photographs.
        model: the network that photographs are for.
    """
    from mixmix import ImageSet
    from mixmix.data.images import read_photographs
    from mixmix.data.shards import MANIFEST_NAME

    loaded = [
        ImageSet.load(folder)
        if model is None or (folder / MANIFEST_NAME).exists()
        else read_photographs(folder, model, at_most=_MOST_PHOTOGRAPHS)
        for folder in folders
    ]
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


def load_network(section: ModelSection, device: str, spec: Mapping[str, Any] | None) -> Model:
    """Load the network to compress.

    Raises:
        InputError: if it cannot be loaded.
    """
    from mixmix import load

    known = inspect.signature(load).parameters.keys() - {"reference", "device"}
    if unknown := sorted(section.settings.keys() - known):
        raise InputError(
            f"unknown keys in [model]: {', '.join(unknown)}; known: reference, "
            f"{', '.join(sorted(known))}"
        )
    own = load(section.reference, device=device, **section.settings)
    return load_zoo((own,), device, spec=spec)[0]


def read_classes(path: Path) -> list[str]:
    """Names of classes: the lines of a text file, or a list or table by index in a JSON file.

    Raises:
        InputError: if the file cannot be read, or holds no names.
    """
    from mixmix.runtime.storage import read_text

    try:
        text = read_text(path).strip()
        content = json.loads(text) if path.suffix == ".json" else text.splitlines()
        if isinstance(content, Mapping):
            content = [content[key] for key in sorted(content, key=int)]
        # Of a synset and a name, as in imagenet_class_index.json, the name.
        found = [each[-1] if isinstance(each, list) and each else each for each in content]
    except (OSError, ValueError, RecursionError, TypeError) as error:
        raise InputError(f"cannot read the classes in {path}: {first_line(error)}") from error
    names = [each.strip() if isinstance(each, str) else "" for each in found]
    if not names or not all(names):
        raise InputError(
            f"{path} must hold the name of a class in each line, or a JSON list of names"
        )
    return names


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
