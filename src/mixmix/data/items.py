"""Images out of data sets and loaders of PyTorch, and of all that is indexed like them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mixmix.data.pictures import to_tensor
from mixmix.errors import DataError, InputError
from mixmix.models.model import resize
from mixmix.models.spec import ModelSpec

__all__ = ["read_items", "unit_range"]

# Decoders and resizing overshoot [0, 1] by rounding; normalized images leave it by far.
_RANGE_TOLERANCE = 0.01
_IMAGE_KEYS = ("image", "images", "pixel_values", "img")
_LABEL_KEYS = ("label", "labels", "fine_label")


def unit_range(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]; uint8 is divided by 255.

    Raises:
        DataError: if they are of another type or leave the range.
    """
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise DataError(f"images must be uint8 or floats in [0, 1], got {images.dtype}")
    low, high = float(images.min()), float(images.max())
    if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):
        raise DataError(
            f"images must be in [0, 1], got values from {low:.3g} to {high:.3g}; give them "
            "without normalization, the model's own is applied here"
        )
    return images.float()


def read_items(
    source: Dataset[Any] | DataLoader[Any], spec: ModelSpec
) -> tuple[Tensor, Tensor | None]:
    """All images (N, C, H, W), as they are, and their labels (N,) or None.

    Args:
        source: images, pairs (image, label), or dicts with one of the keys that are usual; images
            are tensors or, in a data set, of Pillow.
        spec: of the network that takes them; images of several sizes are brought to its own.

    Raises:
        InputError: if an item is something else.
        DataError: if there are none, or labels are no numbers.
    """
    images: list[Tensor] = []
    labels: list[Tensor | None] = []
    if isinstance(source, DataLoader):
        for batch in source:
            some, own = _unpack(batch)
            if not isinstance(some, Tensor) or some.ndim != 4:
                raise InputError(
                    f"each batch of a DataLoader must have images (N, C, H, W), got {_kind(some)}"
                )
            images += some.detach().cpu().unbind()
            labels += [None] * len(some) if own is None else _numbers(own).unbind()
    else:
        for item in _items(source):
            image, label = _unpack(item)
            if isinstance(image, Image.Image):
                image = to_tensor(image, spec.input_shape)
            if not isinstance(image, Tensor) or image.ndim != 3:
                raise InputError(
                    f"each item of a Dataset must have an image (C, H, W), got {_kind(image)}"
                )
            images.append(image.detach().cpu())
            labels.append(None if label is None else _numbers(label))
    if not images:
        raise DataError(f"a {type(source).__name__} holds no images")
    whole = [label for label in labels if label is not None]
    return _stacked(images, spec), torch.stack(whole) if len(whole) == len(images) else None


def _items(source: Dataset[Any]) -> Iterator[Any]:
    if isinstance(source, IterableDataset):
        return iter(source)
    try:
        count = len(source)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError(
            f"{type(source).__name__} says no length; give a Dataset with __len__, or an "
            "IterableDataset"
        ) from error
    return (source[index] for index in range(count))


def _unpack(item: Any) -> tuple[Any, Any]:
    """The image and the label, or None, of one item or batch."""
    if isinstance(item, Mapping):
        keys = [key for key in _IMAGE_KEYS if key in item]
        if not keys:
            raise InputError(
                f"dicts of images need the key {' or '.join(map(repr, _IMAGE_KEYS))}, got "
                f"{', '.join(map(repr, item)) or 'none'}"
            )
        label = next((item[key] for key in _LABEL_KEYS if key in item), None)
        return item[keys[0]], label
    if isinstance(item, tuple | list):
        if not item:
            raise InputError("expected (image, label), got an empty item")
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _numbers(labels: Any) -> Tensor:
    try:
        return torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"labels must be class numbers, got {_kind(labels)}; leave them out to take those that "
            "the network predicts"
        ) from error


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _stacked(images: Sequence[Tensor], spec: ModelSpec) -> Tensor:
    """One tensor; images of several sizes are brought to that of the spec."""
    if len({image.shape for image in images}) == 1:
        return torch.stack(list(images))
    channels = sorted({len(image) for image in images})
    if len(channels) > 1:
        raise InputError(f"images must have the same channels, got {channels}")
    return torch.cat([resize(unit_range(image)[None], spec.input_shape[1:]) for image in images])
