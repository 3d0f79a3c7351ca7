"""One way to give images: a data set, a folder, a tensor, or what PyTorch loads them with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixmix.data.image_set import ImageSet
from mixmix.data.items import read_items, unit_range
from mixmix.data.pictures import is_picture, read_picture
from mixmix.data.shards import MANIFEST_NAME
from mixmix.errors import DataError, InputError
from mixmix.models.spec import ModelSpec

__all__ = ["Images", "Predicts", "as_image_set", "as_images"]

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


class Predicts(Protocol):
    """A network that says what is on images, such as ``Model``."""

    @property
    def spec(self) -> ModelSpec:
        """Its input shape and classes."""
        ...

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, K) on the CPU of images (N, C, H, W) in [0, 1]."""
        ...


class _Read(NamedTuple):
    """Images (N, C, H, W) in [0, 1], labels (N,) if there are any, and where they come from."""

    images: Tensor
    labels: Tensor | None
    origin: str


def as_image_set(images: Images, model: Predicts) -> ImageSet:
    """Images in whatever form, as an ``ImageSet`` for this network.

    Args:
        images: one of

            - an ``ImageSet``, which is returned as it is;
            - a folder that ``synthesize`` or ``generate`` wrote;
            - any other folder of pictures (PNG, JPEG, WebP ...), nested or not, in the order of
              their paths: each is scaled to cover the network's input shape and cropped to its
              center;
            - a tensor (N, C, H, W): floats in [0, 1], or uint8, which is divided by 255; or a pair
              of images and labels (N,);
            - a ``Dataset`` or a ``DataLoader`` of images, of pairs (image, label), or of dicts
              with ``"image"`` or ``"pixel_values"`` and maybe ``"label"``; images are tensors
              as above, or of Pillow;
            - a list of data sets and folders, which are joined.
        model: what it predicts are the labels of images that have none. The soft labels, too, where
            the images are not a data set that has them.

    Raises:
        InputError: if the images are of another kind, or have other channels than the network.
        DataError: if there are none, they cannot be read, are not in [0, 1], or labels are out of
            range.

    Examples:
        >>> import torch
        >>> images = mixmix.as_image_set(torch.rand(8, 3, 32, 32), mixmix.load("bundled:vgg"))
        >>> images.labels.shape, images.soft_labels.shape
        (torch.Size([8]), torch.Size([8, 10]))
    """
    if isinstance(images, list | tuple) and not _is_pair(images):
        if not images or not all(isinstance(each, ImageSet | str | Path) for each in images):
            raise InputError(
                "a list of images must hold folders or ImageSets, got "
                f"{', '.join(sorted({type(each).__name__ for each in images})) or 'nothing'}; "
                "stack tensors with torch.stack"
            )
        parts = [as_image_set(each, model) for each in images]
        return parts[0] if len(parts) == 1 else ImageSet.join(parts)
    if isinstance(images, ImageSet):
        return _check_channels(images, model.spec)
    if _is_written(images):
        return _check_channels(ImageSet.load(images), model.spec)
    read = _read(images, model.spec)
    return _labeled(read, model)


def as_images(images: Images, spec: ModelSpec) -> Tensor:
    """The images alone (N, C, H, W) in [0, 1], of whatever ``as_image_set`` takes.

    Raises:
        InputError: see ``as_image_set``.
        DataError: likewise.
    """
    if isinstance(images, list | tuple) and not _is_pair(images):
        return torch.cat([as_images(each, spec) for each in images])
    if isinstance(images, ImageSet):
        return _check_channels(images, spec).images
    if _is_written(images):
        return _check_channels(ImageSet.load(images), spec).images
    return _read(images, spec).images


def _is_pair(images: Sequence[Any]) -> bool:
    return len(images) == 2 and all(isinstance(each, Tensor) for each in images)


def _is_written(images: object) -> TypeGuard[str | Path]:
    """Whether it is a folder that mixmix wrote."""
    return isinstance(images, str | Path) and (Path(images) / MANIFEST_NAME).exists()


def _check_channels(images: ImageSet, spec: ModelSpec) -> ImageSet:
    _check_shape(images.images, spec)
    return images


def _check_shape(images: Tensor, spec: ModelSpec) -> None:
    channels = spec.input_shape[0]
    if images.ndim != 4:
        raise InputError(
            f"expected images (N, {channels}, H, W), got shape {tuple(images.shape)}"
            + ("; a single image is images[None]" if images.ndim == 3 else "")
        )
    if images.shape[1] != channels:
        raise InputError(
            f"the images have {images.shape[1]} channels, {spec.name} takes {channels}"
        )


def _read(images: Any, spec: ModelSpec) -> _Read:
    if isinstance(images, str | Path):
        read = _Read(_read_folder(Path(images), spec), None, f"the folder {images}")
    elif isinstance(images, Tensor):
        read = _Read(images, None, "a tensor")
    elif isinstance(images, tuple):
        read = _Read(images[0], images[1], "tensors")
    elif isinstance(images, Dataset | DataLoader) or _is_like_dataset(images):
        read = _Read(*read_items(images, spec), f"a {type(images).__name__}")
    else:
        raise InputError(
            f"cannot take a {type(images).__name__} as images; expected an ImageSet, a folder, a "
            "tensor (N, C, H, W) in [0, 1], a Dataset or a DataLoader"
        )
    _check_shape(read.images, spec)
    if len(read.images) == 0:
        raise DataError(f"{read.origin} holds no images")
    return read._replace(images=unit_range(read.images.detach().cpu()))


def _is_like_dataset(images: object) -> bool:
    """Whether items can be had by index, as those of Hugging Face's data sets."""
    has_items = hasattr(images, "__getitem__") and hasattr(images, "__len__")
    return has_items and not isinstance(images, Mapping | bytes)


def _read_folder(folder: Path, spec: ModelSpec) -> Tensor:
    """All pictures of a folder, in the order of their paths."""
    if not folder.is_dir():
        raise DataError(f"there is no folder of images at {folder}")
    paths = sorted(path for path in folder.rglob("*") if is_picture(path))
    if not paths:
        raise DataError(
            f"{folder} holds no pictures (.png, .jpg, .webp ...) and was not written by synthesize"
        )
    return torch.stack([read_picture(path, spec.input_shape) for path in paths])


def _labeled(read: _Read, model: Predicts) -> ImageSet:
    """With what the network predicts."""
    spec = model.spec
    count = len(read.images)
    soft = model.logits(read.images).softmax(1) if spec.num_classes else torch.zeros(count, 0)
    if read.labels is not None:
        labels, whose = _checked_labels(read.labels, count, spec), "the caller's"
    elif spec.num_classes:
        labels, whose = soft.argmax(1), f"predicted by {spec.name}"
    else:
        labels, whose = torch.zeros(count, dtype=torch.int64), "none"
    manifest = {"origin": read.origin, "labels": whose, "classes": list(spec.classes)}
    return ImageSet(read.images, labels, soft, manifest)


def _checked_labels(labels: Tensor, count: int, spec: ModelSpec) -> Tensor:
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) != count:
        raise DataError(
            f"labels must be class numbers ({count},), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if spec.num_classes and not 0 <= low <= high < spec.num_classes:
        raise DataError(
            f"label {low if low < 0 else high} is out of range: {spec.name} has "
            f"{spec.num_classes} classes, 0 to {spec.num_classes - 1}; leave labels out to take "
            "those that it predicts"
        )
    return labels.long().cpu()
