"""Why a checkpoint does not fit: other classes or other channels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mixmix.models.spec import ModelSpec

__all__ = ["explain_misfit"]


def explain_misfit(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], spec: ModelSpec
) -> list[str]:
    """Which fields of the spec to change, where only numbers of classes or channels differ.

    Args:
        expected: state dict of the architecture for this spec.
        found: state dict of the checkpoint.
        spec: of the network.
    """
    shapes = {
        name: (tuple(tensor.shape), tuple(found[name].shape))
        for name, tensor in expected.items()
        if name in found and found[name].ndim == tensor.ndim
    }
    advice = []
    heads = {
        theirs[0]
        for ours, theirs in shapes.values()
        if len(ours) in (1, 2, 4)
        and ours[0] == spec.num_classes != theirs[0]
        and ours[1:] == theirs[1:]
    }
    if len(heads) == 1:
        (number,) = heads
        advice.append(
            f"the checkpoint has {number} classes, the spec {spec.num_classes}: set num_classes = "
            f"{number}"
        )
    stems = {
        theirs[1]
        for ours, theirs in shapes.values()
        if len(ours) == 4
        and ours[1] == spec.input_shape[0] != theirs[1]
        and ours[:1] + ours[2:] == theirs[:1] + theirs[2:]
    }
    if len(stems) == 1:
        (channels,) = stems
        height, width = spec.input_shape[1:]
        advice.append(
            f"the checkpoint takes {channels} channels, the spec {spec.input_shape[0]}: set "
            f"input_shape = [{channels}, {height}, {width}], and mean and std with {channels} "
            "values each"
        )
    return advice
