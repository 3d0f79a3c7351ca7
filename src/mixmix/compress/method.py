"""What every way to compress takes and gives: a model, and a record of every layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from mixmix._display import html_table, summary
from mixmix._settings import Settings, to_plain
from mixmix.data.image_set import ImageSet
from mixmix.models.spec import ModelSpec

__all__ = [
    "AppliedMethod",
    "Compressed",
    "LayerRecord",
    "Method",
    "Progress",
    "skipped_layers",
    "with_channels",
]

# Called with (what is being done, fraction done in [0, 1]).
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
        sparsity: fraction of its weights that are held at zero, or None where none is.
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
class AppliedMethod:
    """A method that was applied to a model.

    Attributes:
        settings: as the caller gave them, in plain JSON types; ``Method.from_dict`` reads them.
        results: what the method chose and measured, by name, in plain JSON types.
    """

    settings: dict[str, Any]
    results: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Compressed:
    """A compressed model and how it came about.

    Attributes:
        module: takes *normalized* images (N, C, H, W), like the original, and gives logits (N, K).
        spec: of the original model.
        records: one for every layer with parameters, in the order of execution.
        applied: every method that was applied, in order: its settings, and apart from them its
            results. Exported files hold the settings alone.
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
    applied: tuple[AppliedMethod, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    original: nn.Module | None = None
    kept_channels: Mapping[str, Tensor] = field(default_factory=dict)
    dense: nn.Module | None = None

    @property
    def settings(self) -> tuple[dict[str, Any], ...]:
        """Of every method applied, in order, in plain JSON types."""
        return tuple(method.settings for method in self.applied)

    def __repr__(self) -> str:
        actions = Counter(record.action for record in self.records)
        facts = {
            "model": self.spec.name,
            "methods": tuple(str(one.get("method", "?")) for one in self.settings),
            "parameters": sum(each.numel() for each in self.module.parameters()),
            "layers": ", ".join(f"{count} {action}" for action, count in actions.items()),
        }
        return summary("Compressed", facts)

    def _repr_html_(self) -> str:
        rows = [record.to_dict() for record in self.records]
        used = [key for key in rows[0] if any(row[key] for row in rows)] if rows else []
        return html_table([{key: row[key] for key in used} for row in rows], caption=repr(self))

    def with_method(
        self, method: Method, results: Mapping[str, Any] | None = None, **changes: Any
    ) -> Compressed:
        """A copy that says that a method was applied.

        Args:
            method: its settings are added to ``applied``.
            results: what it chose and measured, by name.
            changes: fields of the copy, such as ``module`` and ``records``.
        """
        entry = AppliedMethod(_settings_of(method), to_plain(results or {}))
        return replace(self, applied=(*self.applied, entry), **changes)


def _settings_of(method: Any) -> dict[str, Any]:
    return method.to_dict() if hasattr(method, "to_dict") else {"method": type(method).__name__}


class Method(Settings, ABC):
    """A way to compress: frozen settings and how to apply them.

    A subclass is a frozen dataclass with a ``kind``; see ``docs/extending.md``. ``compress`` takes
    any other object with ``apply``, too.
    """

    family: ClassVar[str] = "method"
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
        """Whether ``compress`` has to be given images."""
        return True

    @abstractmethod
    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Return a compressed copy; ``model`` is not changed.

        Args:
            model: the network by now, in eval mode, and what earlier methods say of it.
            data: images (N, C, H, W) in [0, 1], with labels (N,) and soft labels (N, K). They may
                have another size than the network takes: ``models.model.normalize`` resizes them.
                Without images, N is 0.
            seed: of every random draw.
            on_progress: called with (what is being done, fraction done in [0, 1]).
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
