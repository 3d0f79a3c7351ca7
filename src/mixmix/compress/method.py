"""Compression as a fold of methods over a model, each returning a record of every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.models.model import Model
from mixmix.models.spec import ModelSpec
from mixmix.models.zoo import Zoo
from mixmix.runtime.allocator import keep_freed_memory

__all__ = ["Compressed", "LayerRecord", "Method", "Progress", "compress", "with_channels"]

# Called with (what is being done, share done in [0, 1]).
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class LayerRecord:
    """What happened to one layer.

    Attributes:
        name: qualified name in the caller's model.
        kind: class name of the layer.
        action: ``quantized``, ``pruned``, ``trained``, ``folded``, ``skipped``, or ``added`` where
            the original has no such layer.
        reason: why it was skipped or added, or into what it was folded; else empty.
        num_parameters: parameters of the original layer.
        weight_bits: bits of its weights, or None for floats.
        activation_bits: bits of its input, or None for floats.
        error: relative squared error of the layer's unit on the images, or None.
        sparsity: share of its weights that are held at zero, or None where none is.
        in_channels: its input channels before and after pruning, or None.
        out_channels: its output channels before and after pruning, or None.
    """

    name: str
    kind: str
    action: str
    reason: str = ""
    num_parameters: int = 0
    weight_bits: int | None = None
    activation_bits: int | None = None
    error: float | None = None
    sparsity: float | None = None
    in_channels: tuple[int, int] | None = None
    out_channels: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Compressed:
    """A compressed model and how it came about.

    Attributes:
        module: takes *normalized* images (N, C, H, W), like the original, and gives logits (N, K).
        spec: of the original model.
        records: one for every layer with parameters, in the order of execution.
        settings: of every method applied, in order, in plain JSON types.
        masks: by the name of a weight in the model that was pruned, bool of its shape: what is
            False is zero, and stays so in whatever follows.
        original: what a pruned model was made from, for methods that learn from it; None stands
            for ``module``. It takes and gives the same.
        kept_channels: by the name of a layer or BatchNorm that is narrower than the original's:
            which output channels of the original's it has, (kept,) in ascending order.
        dense: the model as it was before any weights were set to zero, whose channels and blocks
            are those of ``module``; None stands for ``module``.
    """

    module: nn.Module
    spec: ModelSpec
    records: tuple[LayerRecord, ...] = ()
    settings: tuple[dict[str, Any], ...] = field(default=())
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    original: nn.Module | None = None
    kept_channels: Mapping[str, Tensor] = field(default_factory=dict)
    dense: nn.Module | None = None


class Method(Protocol):
    """A way to compress: frozen settings and how to apply them."""

    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Return a compressed copy; ``model`` is not changed."""
        ...


def compress(
    model: Model | str | Path | ModelSpec | tuple[nn.Module, ModelSpec],
    data: ImageSet | None,
    methods: Method | Sequence[Method],
    *,
    seed: int,
    on_progress: Progress = lambda what, share: None,
) -> Compressed:
    """Compress a pretrained network with images instead of its training data.

    Args:
        model: a ``Model``, or anything that ``Zoo.load`` takes; it is not changed.
        data: images in [0, 1]; of another size than the model's they are resized. None is for
            methods that make their own, as ``Distill`` can.
        methods: applied in order, such as ``Quantize("W4A4")``.
        seed: of every random draw.
        on_progress: called with (what is being done, share done).

    Raises:
        InputError: if there is no method, or model and images do not fit each other.
    """
    teacher = model if isinstance(model, Model) else Zoo.load([model], device="cpu")[0]
    steps = [methods] if not isinstance(methods, Sequence) else list(methods)
    if not steps:
        raise InputError("compress needs at least one method, such as Quantize('W8A8')")
    if data is None:
        if any(getattr(step, "needs_images", True) for step in steps):
            raise InputError("compress needs images, such as those that synthesize makes")
        data = _no_images(teacher.spec)
    channels = teacher.spec.input_shape[0]
    if data.images.shape[1] != channels:
        raise InputError(
            f"the images have {data.images.shape[1]} channels, {teacher.spec.name} takes {channels}"
        )
    keep_freed_memory()
    compressed = Compressed(teacher.module, teacher.spec)
    for step in steps:
        compressed = step.apply(compressed, data, seed=seed, on_progress=on_progress)
    return compressed


def _no_images(spec: ModelSpec) -> ImageSet:
    labels = torch.zeros(0, dtype=torch.long)
    soft_labels = torch.zeros(0, spec.num_classes)
    return ImageSet(torch.zeros(0, *spec.input_shape), labels, soft_labels, {})


def with_channels(
    records: Sequence[LayerRecord], before: Sequence[LayerRecord]
) -> tuple[LayerRecord, ...]:
    """Records that also say, where earlier ones do, what channels were pruned."""
    known = {record.name: record for record in before}
    return tuple(
        replace(
            record,
            in_channels=known[record.name].in_channels,
            out_channels=known[record.name].out_channels,
        )
        if record.name in known
        else record
        for record in records
    )
