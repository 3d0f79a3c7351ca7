"""What a run reads: networks and images."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixmix._display import did_you_mean, printable
from mixmix.errors import InputError, first_line, translate_errors, warn

if TYPE_CHECKING:
    from mixmix import ImageSet, Model, Zoo
    from mixmix.models.loading import Reference
    from mixmix.models.spec import ModelSpec

__all__ = [
    "images_to_compare",
    "labeled_images",
    "load_images",
    "load_zoo",
    "read_classes",
    "spec_fields",
    "with_spec",
]

# Arguments of ``load`` that networks cannot share.
_NUM_CIFAR10 = 10
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

    given = spec_fields(spec)
    zoo = Zoo([load(each, device=device, **given) for each in references], weights=weights)
    for member in zoo.members:
        if member.why:
            text = f"note: {member.model.spec.name} contributes {member.role}"
            print(printable(text), file=sys.stderr)
    return zoo


def spec_fields(spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of ``load`` from fields of the specs of all networks.

    Raises:
        InputError: if there is no such field.
    """
    from mixmix import load

    given, known = dict(spec or {}), sorted(inspect.signature(load).parameters.keys() - _OF_ONE)
    if not given.keys() <= set(known):
        unknown = ", ".join(sorted(given.keys() - set(known)))
        raise InputError(
            f"unknown keys in [spec]: {unknown}; known: {', '.join(known)}"
            + did_you_mean(given.keys() - set(known), known)
        )
    return given


def with_spec(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options in plain types, with what they say about networks under ``spec``."""
    content = dict(given)
    class_file, spec = content.pop("class_file", None), dict(content.get("spec") or {})
    for name in ("mean", "std"):
        if isinstance(spec.get(name), list) and len(spec[name]) == 1:  # for all channels
            spec[name] = spec[name][0]
    if class_file is not None:
        spec["classes"] = read_classes(Path(class_file))
    return content | ({"spec": spec} if spec else {})


def read_classes(path: Path) -> list[str]:
    """Names of classes: the lines of a text file, or a list or table by index in a JSON file.

    Raises:
        InputError: if the file cannot be read, or holds no names.
    """
    from mixmix.models.classes import list_some
    from mixmix.runtime.storage import read_text

    try:
        text = read_text(path)
        content: Any = json.loads(text) if path.suffix == ".json" else text.split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read the classes in {path}: {first_line(error)}") from error
    if isinstance(content, Mapping):
        indices = [str(index) for index in range(len(content))]
        if content.keys() != set(indices):
            raise InputError(
                f"{path} must hold the names of classes by their index, from 0 to "
                f"{len(content) - 1}; got the keys {list_some(sorted(content))}"
            )
        content = [content[index] for index in indices]
    # Of a synset and a name, as in imagenet_class_index.json, the name.
    names = [each[-1] if isinstance(each, list) and each else each for each in _listed(content)]
    names = [each.strip() if isinstance(each, str) else each for each in names]
    while names and names[-1] == "":
        names.pop()
    if not names or not all(isinstance(each, str) and each for each in names):
        raise InputError(
            f"{path} must hold the name of a class in each line, or a JSON list of names"
        )
    return names


def _listed(content: Any) -> list[Any]:
    return content if isinstance(content, list) else []


def labeled_images(path: Path | None, spec: Callable[[], ModelSpec]) -> Any:
    """Images and labels as ``evaluate`` takes them.

    Args:
        path: folder with a subfolder of images for each class, with the ``cifar-10-batches-py`` of
            CIFAR-10, or with images of mixmix; or a .csv file of paths and labels. None is the
            bundled test images of CIFAR-10.
        spec: returns the spec of the evaluated model.

    Raises:
        DataError: if it is none of these.
        InputError: if it is None, and the model is not known to classify CIFAR-10.
    """
    from mixmix.data.image_set import ImageSet
    from mixmix.data.shards import MANIFEST_NAME
    from mixmix.demo.cifar10 import load_evaluation_pack
    from mixmix.evaluate.image_folder import image_folder
    from mixmix.evaluate.image_table import TABLES, image_table

    if path is None:
        _check_cifar10(spec(), "the bundled test images are those of CIFAR-10")
        return load_evaluation_pack()
    if path.suffix.lower() in TABLES:
        return image_table(path, spec())
    if (path / MANIFEST_NAME).is_file():
        return ImageSet.load(path)
    if (path / "cifar-10-batches-py").is_dir():
        images = _test_split_of_cifar10(path)
        found = spec()
        if found.label_set or found.classes or found.num_classes != _NUM_CIFAR10:
            _check_cifar10(found, f"{path} has the images of CIFAR-10")
        return images
    return image_folder(path, spec())


def images_to_compare(path: Path | None, spec: ModelSpec) -> Any:
    """Images as ``compare`` takes them: with labels if they have some; None for noise."""
    from mixmix.data.images import as_images
    from mixmix.data.pixels import is_image_file

    if path is None:
        try:
            return labeled_images(None, lambda: spec)
        except InputError:
            return None
    from mixmix.data.shards import MANIFEST_NAME

    is_plain = path.is_dir() and any(map(is_image_file, path.iterdir()))
    if is_plain or (path / MANIFEST_NAME).is_file():  # without labels, or with synthesized ones
        return as_images(path, spec)
    return labeled_images(path, lambda: spec)


def _check_cifar10(spec: ModelSpec, problem: str) -> None:
    """Raise an ``InputError`` unless a network is known to have the classes of CIFAR-10."""
    from mixmix.models import load_spec
    from mixmix.models.classes import find_classes, list_some

    names = load_spec("bundled:resnet").classes
    if spec.label_set.lower().replace("-", "") == "cifar10" and spec.num_classes == _NUM_CIFAR10:
        return
    if len(spec.classes) == len(names) and find_classes(names, spec.classes) == (*range(10),):
        return
    what = f"{spec.num_classes} classes"
    if spec.label_set or spec.classes:
        what += f" ({spec.label_set or list_some(spec.classes)})"
    raise InputError(
        f"{problem}, and {spec.name} has {what}; give labeled images of its own classes: "
        "--data FOLDER with a subfolder for each class, or --data FILE.csv with paths and labels"
        + ", or if its classes are those of CIFAR-10, --label-set cifar10"
        * (spec.num_classes == _NUM_CIFAR10 and not spec.label_set)
    )


def _test_split_of_cifar10(folder: Path) -> Any:
    import torch

    from mixmix.models.sources.source import require

    datasets = require("torchvision.datasets", "CIFAR-10", "torchvision")
    with translate_errors(f"cannot read CIFAR-10 in {folder}", "unpack its archive again"):
        data = datasets.CIFAR10(folder, train=False)
    return torch.from_numpy(data.data).permute(0, 3, 1, 2), torch.tensor(data.targets)
