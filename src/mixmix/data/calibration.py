"""Synthetic images in the forms in which other compressors take their calibration data.

Each takes the images and the spec of the network that they shall calibrate, and gives what the
network sees: resized and normalized, float32 (N, C, H, W).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
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

__all__ = ["calibration_reader", "loader", "nncf_dataset", "representative_dataset"]


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


def representative_dataset(
    data: ImageSet, spec: ModelSpec, *, batch_size: int = 32
) -> Callable[[], Iterator[list[np.ndarray[Any, Any]]]]:
    """A representative data generator, as Sony's Model Compression Toolkit and TFLite take it.

    Returns:
        A function without arguments; every call gives a new iterator of lists of one batch
        (N, C, H, W) float32.

    Raises:
        InputError: if the images do not fit the network, or ``batch_size`` is not positive.
    """
    batches = _prepared(data, spec, batch_size).split(batch_size)
    return lambda: ([batch.numpy()] for batch in batches)


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
    quantization = _required("onnxruntime.quantization", "onnxruntime")
    batches = [{input_name: b.numpy()} for b in _prepared(data, spec, batch_size).split(batch_size)]

    # The base class is not known before onnxruntime is imported, which takes a second.
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> Mapping[str, np.ndarray[Any, Any]] | None:
            return next(self._left, None)

        def rewind(self) -> None:
            self._left = iter(batches)

        def __len__(self) -> int:
            return len(batches)

    return Reader()


def nncf_dataset(
    data: ImageSet,
    spec: ModelSpec,
    *,
    batch_size: int = 1,
    input_name: str | None = "images",
) -> Any:
    """An ``nncf.Dataset`` for ``nncf.quantize`` on OpenVINO, ONNX or PyTorch models.

    Args:
        data: synthetic images.
        spec: of the network.
        batch_size: images in a batch.
        input_name: of the model, under which OpenVINO and ONNX models get NumPy arrays; None gives
            tensors alone, as PyTorch models take them.

    Raises:
        InputError: if the images do not fit the network, ``batch_size`` is not positive, or nncf
            is not installed.
    """
    nncf = _required("nncf", "'nncf>=3' openvino")
    batches = _prepared(data, spec, batch_size).split(batch_size)
    if input_name is None:
        return nncf.Dataset(batches)
    return nncf.Dataset([{input_name: batch.numpy()} for batch in batches])


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


def _required(module: str, packages: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{module} cannot be imported ({error}); install it with: pip install {packages}"
        ) from error
