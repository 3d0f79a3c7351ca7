"""Conversion of images in any form to an ``ImageSet`` or a tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixmix.data.datasets import read_dataset
from mixmix.data.image_set import ImageSet
from mixmix.data.labels import (
    checked_labels,
    dataset_index,
    label_agreement,
    warn_if_labels_are_chance,
)
from mixmix.data.pixels import channels_last_hint, is_image_file, read_image, to_unit_range
from mixmix.data.shards import MANIFEST_NAME
from mixmix.errors import DataError, InputError, warn
from mixmix.models.member import label_space
from mixmix.models.spec import ModelSpec

__all__ = ["Images", "Predicts", "as_image_set", "as_images", "read_photographs"]

Images = (
    ImageSet
    | str
    | Path
    | Tensor
    | tuple[Tensor, Tensor]
    | Dataset[Any]
    | DataLoader[Any]
    | Sequence[ImageSet | str | Path]
)


# Labels are judged by so many images, if so many soft labels agree with them.
_FEWEST, _JUDGED, _MEANT = 16, 128, 0.5


class Predicts(Protocol):
    """A classifier such as ``Model``."""

    @property
    def spec(self) -> ModelSpec:
        """Its input shape and classes."""
        ...

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, K) on the CPU of images (N, C, H, W) in [0, 1]."""
        ...


class _Source(NamedTuple):
    """Images (N, C, H, W), labels (N,) or None, and a description."""

    images: Tensor
    labels: Tensor | None
    origin: str


def as_image_set(images: Images, model: Predicts, *, keep_labels: bool = False) -> ImageSet:
    """Convert images in any form to an ``ImageSet``.

    Args:
        images: one of

            - an ``ImageSet``, whose labels are matched by the names of the classes. If they are of
              other classes, the network's predictions replace them, with a warning;
            - a folder written by ``synthesize`` or ``generate``;
            - any other folder of image files (PNG, JPEG, WebP ...), searched recursively and sorted
              by path; each is scaled to cover the input shape of the model and center-cropped;
            - a tensor (N, C, H, W), floats in [0, 1] or uint8; or a pair of images and labels (N,);
            - a ``Dataset`` or ``DataLoader`` of images, pairs (image, label), or dicts with
              ``"image"`` or ``"pixel_values"`` and optionally ``"label"``; images are tensors as
              above, or Pillow images;
            - a list of image sets and folders, which are joined.
        model: predicts soft labels, and labels if there are none. An ``ImageSet`` keeps its own.
            Labels of data sets that name their classes are matched by name.
        keep_labels: whether an ``ImageSet`` with labels of other classes is an error.

    Raises:
        InputError: if the images have an unsupported type or another number of channels.
        DataError: if there are none, they cannot be read or are not in [0, 1], or a label is out of
            range.

    >>> import torch
    >>> images = mixmix.as_image_set(torch.zeros(2, 3, 32, 32), mixmix.load("bundled:resnet"))
    >>> images.soft_labels.shape
    torch.Size([2, 10])
    """
    if isinstance(images, list | tuple) and not _is_pair(images):
        if not images or not all(isinstance(each, ImageSet | str | Path) for each in images):
            raise InputError(
                "a list of images must hold folders or ImageSets, got "
                f"{', '.join(sorted({type(each).__name__ for each in images})) or 'nothing'}; "
                "stack tensors with torch.stack"
            )
        sets = [as_image_set(each, model, keep_labels=keep_labels) for each in images]
        return sets[0] if len(sets) == 1 else ImageSet.join(sets)
    if not hasattr(model, "spec"):
        raise InputError(
            f"model must be a Model, as load(...) gives it, got {type(model).__name__}; the images "
            "come first, then the model"
        )
    data = _existing(images, model.spec)
    if data is None:
        return _with_labels(_read(images, model.spec), model)
    try:
        return _judged(data.with_classes(label_space(model.spec)), model)
    except InputError as error:
        if keep_labels:
            raise
        warn(f"{error}; the predictions of {model.spec.name} are used as labels")
    return _with_labels(_Source(data.images, None, "images of other classes"), model)


def _judged(data: ImageSet, model: Predicts) -> ImageSet:
    """The images; warns if the network does not predict the labels that they were made for."""
    if not data.label_space.num_classes or not model.spec.num_classes:
        return data
    stated = label_agreement(data.soft_labels, data.labels) or 0.0
    if len(data) < _FEWEST or stated < _MEANT:  # such as noise, and images made without labels
        return data
    chosen = torch.linspace(0, len(data) - 1, min(len(data), _JUDGED)).long()
    hits = int((model.logits(data.images[chosen]).argmax(1) == data.labels[chosen]).sum())
    what = f"images are predicted as labeled by {model.spec.name}"
    warn_if_labels_are_chance(hits, len(chosen), model.spec.num_classes, what)
    return data


def as_images(images: Images, spec: ModelSpec) -> Tensor:
    """Convert images in any form to a tensor (N, C, H, W) in [0, 1]; see ``as_image_set``."""
    if isinstance(images, list | tuple) and not _is_pair(images):
        return torch.cat([as_images(each, spec) for each in images])
    data = _existing(images, spec)
    return _read(images, spec).images if data is None else data.images


def _is_pair(images: Sequence[Any]) -> bool:
    return len(images) == 2 and all(isinstance(each, Tensor) for each in images)


def _existing(images: Any, spec: ModelSpec) -> ImageSet | None:
    """An ``ImageSet`` or the one stored in a folder; None for anything else."""
    if isinstance(images, str | Path) and (Path(images) / MANIFEST_NAME).exists():
        images = ImageSet.load(images)
    if not isinstance(images, ImageSet):
        return None
    _check_shape(images.images, spec)
    return images


def _check_shape(images: Tensor, spec: ModelSpec) -> None:
    channels = spec.input_shape[0]
    if images.ndim != 4:
        raise InputError(
            f"expected images (N, {channels}, H, W), got shape {tuple(images.shape)}"
            + (
                channels_last_hint(images.shape, channels)
                or ("; pass a single image as images[None]" if images.ndim == 3 else "")
            )
        )
    if images.shape[1] != channels:
        raise InputError(
            f"the images have {images.shape[1]} channels, {spec.name} takes {channels}"
            + channels_last_hint(images.shape, channels)
        )


def _read(images: Any, spec: ModelSpec) -> _Source:
    if isinstance(images, str | Path):
        source = _Source(_read_folder(Path(images), spec), None, f"the folder {images}")
    elif isinstance(images, Tensor):
        source = _Source(images, None, "a tensor")
    elif isinstance(images, tuple):
        source = _Source(images[0], images[1], "tensors")
    elif isinstance(images, Dataset | DataLoader) or _is_like_dataset(images):
        pixels, labels = read_dataset(images, spec)
        if labels is not None:
            space = label_space(spec)
            labels = checked_labels(labels, len(pixels), space, dataset_index(images, space))
        source = _Source(pixels, labels, f"a {type(images).__name__}")
    else:
        raise InputError(
            f"cannot use a {type(images).__name__} as images; expected an ImageSet, a folder, a "
            "tensor (N, C, H, W) in [0, 1], a Dataset or a DataLoader"
        )
    _check_shape(source.images, spec)
    if len(source.images) == 0:
        raise DataError(f"{source.origin} contains no images")
    return source._replace(images=to_unit_range(source.images.detach().cpu()))


def _is_like_dataset(images: object) -> bool:
    """Whether items are indexed, as in Hugging Face datasets."""
    has_items = hasattr(images, "__getitem__") and hasattr(images, "__len__")
    return has_items and not isinstance(images, Mapping | bytes)


def read_photographs(folder: Path, model: Predicts, *, at_most: int) -> ImageSet:
    """Images of a folder, as ``as_image_set`` reads them, but no more than that.

    Those that are read are spread evenly over the folder.
    """
    source = _Source(_read_folder(folder, model.spec, at_most), None, f"the folder {folder}")
    return _with_labels(source, model)


def _read_folder(folder: Path, spec: ModelSpec, at_most: int | None = None) -> Tensor:
    if not folder.is_dir():
        raise DataError(f"there is no folder of images at {folder}")
    paths = sorted(path for path in folder.rglob("*") if is_image_file(path))
    if not paths:
        raise DataError(
            f"{folder} contains no image files (.png, .jpg, .webp ...), and was not written by "
            "mixmix"
        )
    if at_most is not None and len(paths) > at_most:
        paths = [paths[index * len(paths) // at_most] for index in range(at_most)]
    return torch.stack([read_image(path, spec.input_shape) for path in paths])


def _with_labels(source: _Source, model: Predicts) -> ImageSet:
    spec, count = model.spec, len(source.images)
    soft = (
        spec.probabilities(model.logits(source.images))
        if spec.num_classes
        else torch.zeros(count, 0)
    )
    if source.labels is not None:
        labels = checked_labels(source.labels, count, label_space(spec))
        label_origin = "the caller's"
        if spec.num_classes:
            hits = int((soft.argmax(1) == labels).sum())
            what = f"images are predicted as labeled by {spec.name}"
            warn_if_labels_are_chance(hits, count, spec.num_classes, what)
    elif spec.num_classes:
        labels, label_origin = soft.argmax(1), f"predicted by {spec.name}"
    else:
        labels, label_origin = torch.zeros(count, dtype=torch.int64), "none"
    manifest = {"origin": source.origin, "labels": label_origin, "classes": list(spec.classes)}
    manifest["label_set"] = spec.label_set
    return ImageSet(source.images, labels, soft, manifest)
