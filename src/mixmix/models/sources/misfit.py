"""Why a checkpoint does not fit: other classes or other channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    shapes = [
        (tuple(tensor.shape), tuple(found[name].shape))
        for name, tensor in expected.items()
        if name in found and found[name].ndim == tensor.ndim
    ]
    advice = []
    classes = _other_size(shapes, 0, spec.num_classes, dims=(1, 2, 4))
    if classes is not None:
        advice.append(
            f"the checkpoint has {classes} classes, the spec {spec.num_classes}: set num_classes = "
            f"{classes}"
        )
    channels = _other_size(shapes, 1, spec.input_shape[0], dims=(4,))
    if channels is not None:
        height, width = spec.input_shape[1:]
        advice.append(
            f"the checkpoint takes {channels} channels, the spec {spec.input_shape[0]}: set "
            f"input_shape = [{channels}, {height}, {width}], and mean and std with {channels} "
            "values each"
        )
    return advice


def _other_size(
    shapes: Sequence[tuple[Sequence[int], Sequence[int]]], axis: int, size: int, dims: Sequence[int]
) -> int | None:
    """The one other size of an axis in pairs of shapes that differ there alone, if there is one."""
    sizes = {
        found[axis]
        for expected, found in shapes
        if len(expected) in dims
        and expected[axis] == size != found[axis]
        and (*expected[:axis], *expected[axis + 1 :]) == (*found[:axis], *found[axis + 1 :])
    }
    return sizes.pop() if len(sizes) == 1 else None
