"""What networks from files of graphs have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mixmix.errors import InputError, translate_errors
from mixmix.graph.agreement import output_error
from mixmix.models.sources.source import Source
from mixmix.models.spec import ModelSpec, channels_first_hint

__all__ = ["GraphSource", "check_any_batch", "check_shape", "check_single", "describe_graph"]

_TOLERANCE = 1e-3
# Fields of the spec in a file that hold for its network; its hash and accuracy may not.
_NOTED = ("name", "mean", "std", "classes", "label_set", "license", "resize", "interpolation")


class GraphSource(Source):
    """The path of a file with a graph and its weights."""

    adapts = False
    has_own_weights = True

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        raise InputError(
            f"{spec.name}: {name} is a trained network; fresh weights need an architecture, such "
            "as timm:NAME or python:MODULE:CALLABLE"
        )


def describe_graph(
    path: str, metadata: Mapping[str, str], inputs: Sequence[Any], outputs: Sequence[Any]
) -> dict[str, Any]:
    """The fields of ``ModelSpec`` that a file fixes or that ``mixmix.export`` wrote into it.

    Args:
        path: of the file.
        metadata: in the file, by key.
        inputs: sizes of the input (N, C, H, W); dynamic sizes are not integers.
        outputs: sizes of the output (N, K).

    Raises:
        DataError: if the metadata of mixmix is malformed.
    """
    spec = ModelSpec.from_metadata(metadata, path)
    known = {key: getattr(spec, key) for key in _NOTED if getattr(spec, key, None)}
    if len(inputs) == 4 and all(isinstance(size, int) and size > 0 for size in inputs[1:]):
        known["input_shape"] = tuple(inputs[1:])
    if len(outputs) == 2 and isinstance(outputs[1], int) and outputs[1] > 0:
        known["num_classes"] = outputs[1]
    return known


def check_single(name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Raise an ``InputError`` unless a graph has one input and one output."""
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{name} has {len(inputs)} inputs and {len(outputs)} outputs, expected one batch of "
            "images and its logits"
        )


def check_shape(name: str, sizes: Sequence[Any], spec: ModelSpec) -> None:
    """Raise an ``InputError`` unless a graph takes inputs (N, C, H, W) of the spec."""
    known = [size if isinstance(size, int) and size > 0 else None for size in sizes]
    pairs = zip(known[1:], spec.input_shape, strict=False)
    if len(known) != 4 or any(size not in (None, given) for size, given in pairs):
        shown = ", ".join("any" if size is None else str(size) for size in known)
        raise InputError(
            f"{spec.name}: {name} takes inputs of the sizes ({shown}), and input_shape is "
            f"{spec.input_shape}; correct input_shape"
        )


@torch.no_grad()
def check_any_batch(model: nn.Module, spec: ModelSpec) -> None:
    """Check that a network runs on batches of any size; files are often written for one.

    Args:
        model: takes normalized images.
        spec: of the network.

    Raises:
        InputError: if the logits of an image depend on the size of its batch.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, *spec.input_shape, generator=generator)
    with translate_errors(
        f"{spec.name}: {spec.source} does not run on batches of any size of images of "
        f"{spec.input_shape}",
        "export it with a dynamic first axis, and pass the input_shape that it was exported for"
        + channels_first_hint(spec.input_shape),
    ):
        together = model(images)
        alone = torch.cat([model(image) for image in images.split(1)])
        if together.shape != alone.shape or not output_error(together, alone) <= _TOLERANCE:
            raise ValueError("an image has different outputs in a batch and alone")
