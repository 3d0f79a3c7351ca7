"""Reading PyTorch datasets and data loaders, and other indexable collections of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mixmix.data.pixels import pil_to_tensor, to_unit_range
from mixmix.errors import DataError, InputError
from mixmix.models.model import resize
from mixmix.models.spec import ModelSpec

__all__ = ["read_dataset"]

_IMAGE_KEYS = ("image", "images", "pixel_values", "img")
_LABEL_KEYS = ("label", "labels", "fine_label")


def read_dataset(
    source: Dataset[Any] | DataLoader[Any], spec: ModelSpec
) -> tuple[Tensor, Tensor | None]:
    """Read all images (N, C, H, W), without conversion of values, and labels (N,) if all have one.

    Args:
        source: of images, pairs (image, label), or dicts with the usual keys; images are tensors
            or, in a dataset, Pillow images.
        spec: of the network; images of different sizes are resized to its input shape.

    Raises:
        InputError: if an item is something else.
        DataError: if there are no images, or labels are not numbers.
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
            labels += [None] * len(some) if own is None else _to_tensor(own).unbind()
    else:
        for item in _items(source):
            image, label = _unpack(item)
            if isinstance(image, Image.Image):
                image = pil_to_tensor(image, spec.input_shape)
            if not isinstance(image, Tensor) or image.ndim != 3:
                raise InputError(
                    f"each item of a Dataset must have an image (C, H, W), got {_kind(image)}"
                )
            images.append(image.detach().cpu())
            labels.append(None if label is None else _to_tensor(label))
    if not images:
        raise DataError(f"a {type(source).__name__} contains no images")
    known = [label for label in labels if label is not None]
    return _stack(images, spec), torch.stack(known) if len(known) == len(images) else None


def _items(source: Dataset[Any]) -> Iterator[Any]:
    if isinstance(source, IterableDataset):
        return iter(source)
    if isinstance(source, np.ndarray):
        raise InputError("got a NumPy array; pass images as torch.from_numpy(array), (N, C, H, W)")
    try:
        count = len(source)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError(
            f"{type(source).__name__} has no length; pass a Dataset with __len__, or an "
            "IterableDataset"
        ) from error
    return (source[index] for index in range(count))


def _unpack(item: Any) -> tuple[Any, Any]:
    """The image and the label, or None, of an item or batch."""
    if isinstance(item, Mapping):
        keys = [key for key in _IMAGE_KEYS if key in item]
        if not keys:
            raise InputError(
                f"dicts of images need the key {' or '.join(map(repr, _IMAGE_KEYS))}, got "
                f"{', '.join(map(repr, item)) or 'none'}"
            )
        return item[keys[0]], next((item[key] for key in _LABEL_KEYS if key in item), None)
    if isinstance(item, tuple | list):
        if not item:
            raise InputError("expected (image, label), got an empty item")
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _to_tensor(labels: Any) -> Tensor:
    try:
        return torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"labels must be class indices, got {_kind(labels)}; omit them to use the predictions "
            "of the network"
        ) from error


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _stack(images: Sequence[Tensor], spec: ModelSpec) -> Tensor:
    if len({image.shape for image in images}) == 1:
        return torch.stack(list(images))
    channels = sorted({len(image) for image in images})
    if len(channels) > 1:
        raise InputError(f"images must have equal numbers of channels, got {channels}")
    size = spec.input_shape[1:]
    return torch.cat([resize(to_unit_range(image)[None], size) for image in images])
