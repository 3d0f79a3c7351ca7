"""Batches of the size that a file was written for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["in_batches_of"]


def in_batches_of(size: object, run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Outputs (N, ...) of images (N, ...), in batches of ``size``; the last one is filled up.

    All images are one batch unless ``size`` is a positive number.
    """
    if not isinstance(size, int) or size < 1 or size == len(images):
        return run(images)
    outputs = []
    for batch in images.split(size):
        filled = torch.cat([batch, batch[-1:].expand(size - len(batch), *batch.shape[1:])])
        found = run(filled)
        if len(found) != size:  # not a row per image
            return found
        outputs.append(found[: len(batch)])
    return torch.cat(outputs)
