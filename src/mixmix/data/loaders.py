"""Calibration data for other toolchains.

Images are resized and normalized for a network: float32 (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.models.model import normalize
from mixmix.models.spec import ModelSpec

__all__ = ["calibration_reader", "loader"]


def loader(
    data: ImageSet, spec: ModelSpec, *, batch_size: int = 32
) -> DataLoader[tuple[Tensor, ...]]:
    """A ``DataLoader`` of images (N, C, H, W), labels (N,) and soft labels (N, K).

    Args:
        data: images in [0, 1].
        spec: of the network.
        batch_size: images per batch; the last batch may be smaller.

    Raises:
        InputError: if the images do not fit the network, or ``batch_size`` is not positive.
    """
    images = _normalized(data, spec, batch_size)
    pairs = TensorDataset(images, data.labels.cpu(), data.soft_labels.cpu())
    return DataLoader(pairs, batch_size=batch_size)


def calibration_reader(
    data: ImageSet, spec: ModelSpec, *, batch_size: int = 32, input_name: str = "images"
) -> Any:
    """A ``CalibrationDataReader`` for ``onnxruntime.quantization.quantize_static``.

    Args:
        data: images in [0, 1].
        spec: of the network.
        batch_size: images per batch.
        input_name: input of the ONNX file; mixmix exports ``images``.

    Raises:
        InputError: if the images do not fit the network, or ``batch_size`` is not positive.
    """
    from onnxruntime import quantization  # slow to import

    images = _normalized(data, spec, batch_size)
    batches = [{input_name: batch.numpy()} for batch in images.split(batch_size)]

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


def _normalized(data: ImageSet, spec: ModelSpec, batch_size: int) -> Tensor:
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if data.images.shape[1] != spec.input_shape[0]:
        raise InputError(
            f"the images have {data.images.shape[1]} channels, {spec.name} takes "
            f"{spec.input_shape[0]}"
        )
    return normalize(data.images.detach().cpu(), spec).contiguous()
