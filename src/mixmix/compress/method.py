"""The interface of compression methods: ``Method``, ``Compressed`` and its records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from mixmix._display import html_table, summary
from mixmix._settings import Settings, to_plain
from mixmix.data.image_set import ImageSet
from mixmix.graph.costs import count_parameters
from mixmix.models.spec import ModelSpec
from mixmix.runtime.progress import Progress

__all__ = [
    "AppliedMethod",
    "Compressed",
    "LayerRecord",
    "Method",
    "Progress",
    "skipped_layers",
    "with_channels",
]


@dataclass(frozen=True)
class LayerRecord:
    """What happened to one layer.

    Attributes:
        name: qualified name in the caller's model.
        kind: class name of the layer.
        action: ``quantized``, ``pruned``, ``trained``, ``folded``, ``skipped``, or ``added`` if
            the original has no such layer.
        reason: why it was skipped or added, or the layer it was folded into; otherwise empty.
        num_parameters: parameters of the original layer.
        weight_bits: bits of the weights, or None for float.
        activation_bits: bits of the input, or None for float.
        error: relative squared error of the layer's unit on the images, or None.
        sparsity: fraction of pruned weights, or None without pruning.
        in_channels: input channels before and after pruning, or None.
        out_channels: output channels before and after pruning, or None.
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
class AppliedMethod:
    """A method that was applied to a model.

    Attributes:
        settings: the method as plain JSON types; ``Method.from_dict`` reads them.
        results: choices and measurements of the method by name, as plain JSON types.
    """

    settings: dict[str, Any]
    results: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Compressed:
    """A compressed model, and a record of its compression.

    Attributes:
        module: maps *normalized* images (N, C, H, W) to logits (N, K), like the original.
        spec: spec of the original model.
        records: one for each layer with parameters, in execution order.
        applied: the methods in the order they were applied. Exported files contain their settings,
            not their results.
        masks: masks of pruned weights by parameter name, True for weights that remain. Later
            methods keep the other weights at zero.
        original: the model before pruning, which later methods use as a teacher; None means
            ``module``.
        kept_channels: for layers and BatchNorms with pruned channels, by name: indices (kept,) of
            the original output channels that remain, in ascending order.
        dense: the model before weights were pruned, with the channels and blocks of ``module``;
            None means ``module``.
    """

    module: nn.Module
    spec: ModelSpec
    records: tuple[LayerRecord, ...] = ()
    applied: tuple[AppliedMethod, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    original: nn.Module | None = None
    kept_channels: Mapping[str, Tensor] = field(default_factory=dict)
    dense: nn.Module | None = None

    @property
    def settings(self) -> tuple[dict[str, Any], ...]:
        """Settings of the applied methods, in order, as plain JSON types."""
        return tuple(method.settings for method in self.applied)

    def __repr__(self) -> str:
        actions = Counter(record.action for record in self.records)
        facts = {
            "model": self.spec.name,
            "methods": tuple(str(one.get("method", "?")) for one in self.settings),
            "parameters": count_parameters(self.module),
            "layers": ", ".join(f"{count} {action}" for action, count in actions.items()),
        }
        return summary("Compressed", facts)

    def _repr_html_(self) -> str:
        return html_table(self.rows, caption=repr(self))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The records as rows of a table, without columns that are empty."""
        rows = [record.to_dict() for record in self.records]
        for row in rows:
            for name in ("in_channels", "out_channels"):
                if row[name] is not None:
                    row[name] = "→".join(map(str, dict.fromkeys(row[name])))
        used = [key for key in rows[0] if any(row[key] for row in rows)] if rows else []
        return [{key: row[key] for key in used} for row in rows]

    def with_method(
        self, method: Method, results: Mapping[str, Any] | None = None, **changes: Any
    ) -> Compressed:
        """A copy with one more applied method.

        Args:
            method: the method, whose settings are added to ``applied``.
            results: its choices and measurements by name.
            changes: fields to replace, such as ``module`` and ``records``.
        """
        entry = AppliedMethod(_settings_of(method), to_plain(results or {}))
        return replace(self, applied=(*self.applied, entry), **changes)


def _settings_of(method: Any) -> dict[str, Any]:
    return method.to_dict() if hasattr(method, "to_dict") else {"method": type(method).__name__}


class Method(Settings, ABC):
    """Base class of compression methods: frozen settings, and how to apply them.

    A subclass is a frozen dataclass with a ``kind``; see ``docs/extending.md``. ``compress`` also
    takes other objects with an ``apply`` method.
    """

    family: ClassVar[str] = "method"
    group: ClassVar[str] = "mixmix.methods"
    modules: ClassVar[tuple[str, ...]] = (
        "mixmix.compress.distill.distill",
        "mixmix.compress.prune.blocks.prune_blocks",
        "mixmix.compress.prune.channels.prune_channels",
        "mixmix.compress.prune.weights.prune",
        "mixmix.compress.quantize.mixed_precision",
        "mixmix.compress.quantize.quantize",
        "mixmix.compress.quantize.quantize_aware",
    )

    @property
    def setting(self) -> str:
        """A short name for tables."""
        return self.kind

    @property
    def needs_images(self) -> bool:
        """Whether ``compress`` needs images for this method."""
        return True

    @abstractmethod
    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Return a compressed copy of ``model``, which is not changed.

        Args:
            model: the result of the earlier methods, in eval mode.
            data: images (N, C, H, W) in [0, 1], with labels (N,) and soft labels (N, K). Their size
                may differ from the network's: ``models.model.normalize`` resizes them. N may be 0.
            seed: seed of every random draw.
            on_progress: called with (a description, fraction done in [0, 1]).
        """


def skipped_layers(module: nn.Module) -> Iterator[tuple[nn.Module, LayerRecord]]:
    """Every layer with parameters of its own, and a record of it as skipped, without a reason."""
    for name, layer in module.named_modules():
        count = sum(p.numel() for p in layer.parameters(recurse=False))
        if count:
            yield layer, LayerRecord(name, type(layer).__name__, "skipped", num_parameters=count)


def with_channels(
    records: Sequence[LayerRecord], before: Sequence[LayerRecord]
) -> tuple[LayerRecord, ...]:
    """Records with the numbers of channels that earlier records have."""
    known = {record.name: record for record in before}
    pairs = ((record, known.get(record.name, record)) for record in records)
    return tuple(
        replace(record, in_channels=old.in_channels, out_channels=old.out_channels)
        for record, old in pairs
    )
