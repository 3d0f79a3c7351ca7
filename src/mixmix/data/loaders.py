"""Images for other toolchains: what a network sees, in batches.

Each takes the images and the spec of the network that sees them: they are resized and normalized
for it, float32 (N, C, H, W). What other tools take can be written from ``loader`` in a line; see
docs/quantization.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.models.model import normalize
from mixmix.models.spec import ModelSpec
from mixmix.runtime.seeding import generator

__all__ = ["calibration_reader", "loader"]


def loader(
    data: ImageSet,
    spec: ModelSpec,
    *,
    batch_size: int = 32,
    normalized: bool = True,
    shuffle: bool = False,
    seed: int = 0,
) -> DataLoader[tuple[Tensor, ...]]:
    """A ``DataLoader`` of ``(images, labels, soft labels)``, for any PyTorch code.

    Args:
        data: synthetic images.
        spec: of the network.
        batch_size: images in a batch; the last one may have fewer.
        normalized: as the network takes them; else in [0, 1], resized only.
        shuffle: another order in every epoch.
        seed: of that order.

    Returns:
        Batches of images (N, C, H, W) float32, labels (N,) int64, soft labels (N, K) float32.

    Raises:
        InputError: if the images do not fit the network, or ``batch_size`` is not positive.
    """
    images = _prepared(data, spec, batch_size)
    if not normalized:
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
        images = (images * std + mean).clamp_(0, 1)
    draws = generator(seed, "calibration loader")
    pairs = TensorDataset(images, data.labels.cpu(), data.soft_labels.cpu())
    return DataLoader(pairs, batch_size=batch_size, shuffle=shuffle, generator=draws)


def calibration_reader(
    data: ImageSet, spec: ModelSpec, *, batch_size: int = 32, input_name: str = "images"
) -> Any:
    """A ``CalibrationDataReader`` for ``onnxruntime.quantization.quantize_static``.

    Args:
        data: synthetic images.
        spec: of the network.
        batch_size: images in a batch.
        input_name: of the ONNX file; ``images`` in those that mixmix exports.

    Raises:
        InputError: if the images do not fit the network, or ``batch_size`` is not positive.
    """
    # Imported here, because it takes a second and only this needs it.
    from onnxruntime import quantization

    batches = [{input_name: b.numpy()} for b in _prepared(data, spec, batch_size).split(batch_size)]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> Mapping[str, np.ndarray[Any, Any]] | None:
            return next(self._left, None)

        def rewind(self) -> None:
            self._left = iter(batches)

        def __len__(self) -> int:
            return len(batches)

    return Reader()


def _prepared(data: ImageSet, spec: ModelSpec, batch_size: int) -> Tensor:
    """All images as the network takes them (N, C, H, W)."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if data.images.shape[1] != spec.input_shape[0]:
        raise InputError(
            f"the images have {data.images.shape[1]} channels, {spec.name} takes "
            f"{spec.input_shape[0]}; synthesize them from networks of the same channels"
        )
    return normalize(data.images.detach().cpu(), spec).contiguous()
