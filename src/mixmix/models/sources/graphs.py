"""What networks that were read from files of graphs have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mixmix.errors import InputError, first_line
from mixmix.models.spec import ModelSpec

__all__ = ["check_any_batch", "describe_shapes", "fields_of_notes"]

# What a file says of itself holds for the network in it; its weights and its accuracy may not.
_NOTED = ("name", "mean", "std", "classes", "label_set", "license")


def describe_shapes(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, Any]:
    """Input shape and number of classes, as far as a graph fixes them.

    Args:
        inputs: sizes of the input (N, C, H, W); those that are left open are no whole numbers.
        outputs: sizes of the output (N, K).
    """
    known: dict[str, Any] = {}
    if len(inputs) == 4 and all(isinstance(size, int) and size > 0 for size in inputs[1:]):
        known["input_shape"] = tuple(inputs[1:])
    if len(outputs) == 2 and isinstance(outputs[1], int) and outputs[1] > 0:
        known["num_classes"] = outputs[1]
    return known


def fields_of_notes(path: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What ``mixmix.export`` wrote into a file of the network in it; nothing of other files.

    Raises:
        DataError: if that is malformed.
    """
    spec = ModelSpec.from_metadata(metadata, path)
    return {key: getattr(spec, key) for key in _NOTED if getattr(spec, key, None)}


def check_any_batch(model: nn.Module, spec: ModelSpec) -> None:
    """Batches of every size are needed, and files are often written for one.

    Args:
        model: takes normalized images.
        spec: their shape.

    Raises:
        InputError: if an image gives other logits in a batch than alone.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, *spec.input_shape, generator=generator)
    try:
        with torch.no_grad():
            together = model(images)
            alone = torch.cat([model(image) for image in images.split(1)])
        same = together.shape == alone.shape and torch.allclose(together, alone, 1e-3, 1e-3)
        reason = "an image gives other outputs in a batch than alone"
    except Exception as error:  # whatever the graph's operations raise
        same, reason = False, first_line(error)
    if not same:
        raise InputError(
            f"{spec.name}: {spec.source} does not run on batches of any size of images of "
            f"{spec.input_shape}: {reason}; export it with a dynamic first axis, and give the "
            "input_shape that it was exported for"
        )
