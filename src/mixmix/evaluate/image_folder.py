"""Labeled images in one subfolder per class."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from mixmix.data.image_set import file_name
from mixmix.data.pixels import opened
from mixmix.errors import DataError, first_line, warn
from mixmix.models.classes import find_classes, list_some
from mixmix.models.sources.label_sets import IMAGENET1K
from mixmix.models.spec import ModelSpec

__all__ = ["ImageFolder"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_MODES = {1: "L", 3: "RGB"}
# As ``ImageSet.export_image_folder`` writes them, and as ImageNet's folders are called.
_NUMBER, _SYNSET = re.compile(r"^\d+_(?=.)"), re.compile(r"n\d{8}")


class ImageFolder(Dataset[tuple[Tensor, Tensor]]):
    """Images ``folder/CLASS/*``, as in ``torchvision.datasets.ImageFolder``.

    Subfolders are matched to the class names of the spec. If none is the same, they are taken for
    the classes in alphabetical order, with a warning. Images are center-cropped to the aspect ratio
    of the input and resized (bicubic).

    Args:
        folder: with the subfolders.
        spec: of the network to evaluate.

    Raises:
        DataError: if there are no images, or the subfolders do not match the classes.
    """

    def __init__(self, folder: str | Path, spec: ModelSpec) -> None:
        self._folder, self._shape = Path(folder), spec.input_shape
        if self._shape[0] not in _MODES:
            raise DataError(f"{spec.name} takes {self._shape[0]} channels; image files have 1 or 3")
        if not self._folder.is_dir():
            raise DataError(f"{self._folder} is not a folder; pass one with a subfolder per class")
        names = sorted(
            each.name
            for each in self._folder.iterdir()
            if each.is_dir() and not each.name.startswith(".")
        )
        labels = self._labels(names, spec)
        self._items = [
            (path, label)
            for name, label in zip(names, labels, strict=True)
            for path in sorted((self._folder / name).iterdir())
            if path.suffix.lower() in _SUFFIXES
        ]
        if not self._items:
            raise DataError(
                f"{self._folder} contains no images; expected {self._folder}/CLASS/*.png"
            )

    def _labels(self, names: list[str], spec: ModelSpec) -> list[int]:
        written = [file_name(name) for name in spec.classes]
        unnumbered = [_NUMBER.sub("", name) for name in names]
        for own, classes in ((names, spec.classes), (unnumbered, written)):
            found = [index for index in find_classes(own, classes) if index is not None]
            if len(found) == len(names):
                return found
        pairs = zip(names, find_classes(names, spec.classes), strict=True)
        unknown = [name for name, index in pairs if index is None]
        if len(names) != spec.num_classes or len(unknown) < len(names):
            raise DataError(
                f"{self._folder} has {len(names)} subfolders, {spec.name} has {spec.num_classes} "
                f"classes, of which none is called {list_some(unknown)}; name the subfolders after "
                "the classes" + ", or create one for each class" * (len(unknown) == len(names))
            )
        if all(name.isdecimal() for name in names) and sorted(names, key=int) != names:
            raise DataError(
                f"{self._folder} has numbered subfolders, whose alphabetical order "
                f"({list_some(names)}) is not that of the numbers; set the classes of {spec.name}"
            )
        if not (spec.label_set == IMAGENET1K and all(map(_SYNSET.fullmatch, names))):
            warn(
                f"subfolders of {self._folder} are taken for the classes of {spec.name} in "
                f"alphabetical order ({list_some(names)}), since it has no classes of these names"
            )
        return list(range(len(names)))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """An image (C, H, W) uint8 and its label (int64 scalar).

        Raises:
            DataError: if the file cannot be read.
        """
        path, label = self._items[index]
        channels, height, width = self._shape
        try:
            with opened(path) as picture:
                fitted = ImageOps.fit(
                    picture.convert(_MODES[channels]), (width, height), Image.Resampling.BICUBIC
                )
        except Exception as error:  # decoders raise many types
            raise DataError(
                f"cannot read {path}: {first_line(error)}; replace or remove the file"
            ) from error
        pixels = torch.from_numpy(np.array(fitted)).view(height, width, channels)
        return pixels.permute(2, 0, 1).contiguous(), torch.tensor(label)
