"""Labeled image files, and the classes that names of labels stand for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from mixmix.data.image_set import file_name
from mixmix.data.pixels import opened, upright
from mixmix.errors import DataError, first_line, raise_if_out_of_memory, warn
from mixmix.models.classes import find_classes, list_some
from mixmix.models.sources.label_sets import IMAGENET1K, imagenet1k_synsets
from mixmix.models.spec import ModelSpec

__all__ = ["LabeledFiles", "labels_of_names"]

_MODES = {1: "L", 3: "RGB"}
# As ``ImageSet.export_image_folder`` writes them, and as ImageNet's folders are called.
_NUMBER, _SYNSET = re.compile(r"^\d+_(?=.)"), re.compile(r"n\d{8}")


class LabeledFiles(Dataset[tuple[Tensor, Tensor]]):
    """Image files with labels. Images are center-cropped to the input's aspect ratio and resized.

    Args:
        items: paths and labels: class indices, or with ``multi_label`` K of 0 and 1.
        spec: of the network to evaluate.

    Raises:
        DataError: if the network does not take what image files hold.
    """

    def __init__(self, items: Sequence[tuple[Path, int | list[int]]], spec: ModelSpec) -> None:
        self.items, self._shape = items, spec.input_shape
        if self._shape[0] not in _MODES:
            raise DataError(f"{spec.name} takes {self._shape[0]} channels; image files have 1 or 3")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """An image (C, H, W) uint8 and its label (int64).

        Raises:
            DataError: if the file cannot be read.
        """
        path, label = self.items[index]
        channels, height, width = self._shape
        try:
            with opened(path) as picture:
                fitted = ImageOps.fit(
                    upright(picture, channels), (width, height), Image.Resampling.BICUBIC
                )
        except Exception as error:  # decoders raise many types
            raise_if_out_of_memory(error)
            raise DataError(
                f"cannot read {path}: {first_line(error)}; replace or remove the file"
            ) from error
        pixels = torch.from_numpy(np.array(fitted)).view(height, width, channels)
        return pixels.permute(2, 0, 1).contiguous(), torch.tensor(label)


def labels_of_names(names: Sequence[str], spec: ModelSpec, where: str, what: str) -> list[int]:
    """The class that each name stands for.

    Names are those of the classes, with or without a number in front, ImageNet's synsets, or
    indices. If there is one for each class and none is known, they are taken for the classes in
    alphabetical order, with a warning.

    Args:
        names: all different, in alphabetical order.
        spec: of the network.
        where: what has the names, for messages.
        what: what the names are.

    Raises:
        DataError: if they do not match the classes.
    """
    written = [file_name(name) for name in spec.classes]
    unnumbered = [_NUMBER.sub("", name) for name in names]
    # Of ImageNet's synonyms, the first.
    first = [name.split(",")[0] for name in spec.classes]
    for own, classes in ((names, spec.classes), (unnumbered, written), (names, first)):
        found = [index for index in find_classes(own, classes) if index is not None]
        if len(found) == len(names):
            return found
    known = _synsets(names, spec) or _indices(names, spec)
    if known:
        return known
    pairs = zip(names, find_classes(names, spec.classes), strict=True)
    unknown = [name for name, index in pairs if index is None]
    advice = (
        f"name the {what} after the classes"
        if spec.classes
        else f"give its class names (--classes FILE) so that the {what} can be matched"
    )
    if len(names) != spec.num_classes or len(unknown) < len(names):
        raise DataError(
            f"{where} has {len(names)} {what}, {spec.name} has {spec.num_classes} "
            f"classes, of which none is called {list_some(unknown)}; {advice}"
            + ", or create one for each class"
            * (len(unknown) == len(names))
        )
    if all(name.isdecimal() for name in names) and sorted(names, key=int) != list(names):
        raise DataError(
            f"{where} has numbered {what}, whose alphabetical order ({list_some(names)}) is not "
            f"that of the numbers; {advice}"
        )
    if not (spec.label_set == IMAGENET1K and all(map(_SYNSET.fullmatch, names))):
        warn(
            f"{what} of {where} are taken for the classes of {spec.name} in alphabetical order "
            f"({list_some(names)}), since it has no classes of these names"
        )
    return list(range(len(names)))


def _synsets(names: Sequence[str], spec: ModelSpec) -> list[int]:
    """Classes of ImageNet that synsets such as n01440764 stand for; empty if they are unknown."""
    if spec.num_classes != 1000 or not all(map(_SYNSET.fullmatch, names)):
        return []
    index = {name: position for position, name in enumerate(imagenet1k_synsets())}
    return [index[name] for name in names] if index.keys() >= set(names) else []


def _indices(names: Sequence[str], spec: ModelSpec) -> list[int]:
    """Indices of classes that names are, if their alphabetical order is that of the numbers."""
    width = len(str(spec.num_classes - 1))
    is_padded = all(name.isdecimal() and len(name) == width for name in names)
    found = [int(name) for name in names] if is_padded else []
    return found if all(label < spec.num_classes for label in found) else []
