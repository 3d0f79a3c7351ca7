"""Labeled images in one subfolder per class."""

from __future__ import annotations

from pathlib import Path

from mixmix.data.pixels import is_image_file
from mixmix.errors import DataError
from mixmix.evaluate.labeled_files import LabeledFiles, labels_of_names
from mixmix.models.spec import ModelSpec

__all__ = ["image_folder"]

# Names of the parts of a data set, those for evaluation first.
_PARTS = ("val", "valid", "validation", "test", "testing", "train", "training")


def image_folder(folder: str | Path, spec: ModelSpec) -> LabeledFiles:
    """Images ``folder/CLASS/*``, as in ``torchvision.datasets.ImageFolder``.

    Subfolders are matched to the classes of the spec; see ``labels_of_names``.

    Args:
        folder: with the subfolders.
        spec: of the network to evaluate.

    Raises:
        DataError: if there are no images, or the subfolders do not match the classes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder; pass one with a subfolder per class, or a .csv file with "
            "paths and labels"
        )
    if spec.multi_label:
        raise DataError(
            f"{spec.name} has multi_label, and folders have one label per image; pass a .csv file "
            "with paths and labels"
        )
    names = sorted(
        each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")
    )
    if not names:
        is_flat = any(map(is_image_file, folder.iterdir()))
        raise DataError(
            f"{folder} contains no images with labels; expected {folder}/CLASS/*.png, or a .csv "
            "file with paths and labels"
            if is_flat
            else f"{folder} contains no images; expected {folder}/CLASS/*.png"
        )
    parts = [part for part in _PARTS if part in map(str.lower, names)]
    if len(parts) == len(names):
        part = next(name for name in names if name.lower() == parts[0])
        raise DataError(f"{folder} has the parts {', '.join(names)}; pass {folder / part}")
    labels = labels_of_names(names, spec, str(folder), "subfolders")
    items = [
        (path, label)
        for name, label in zip(names, labels, strict=True)
        for path in sorted((folder / name).rglob("*"))
        if is_image_file(path)
    ]
    if not items:
        raise DataError(f"{folder} contains no images; expected {folder}/CLASS/*.png")
    return LabeledFiles(items, spec)
