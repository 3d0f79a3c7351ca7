"""Several settings side by side: what each loses, its size and its latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mixmix.compress.compress import compress
from mixmix.compress.method import Compressed
from mixmix.compress.quantize.bits import FLOAT
from mixmix.compress.quantize.quantize import Quantize
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.evaluate.estimation import estimate_accuracy
from mixmix.evaluate.evaluation import evaluate
from mixmix.export import Artifact, export
from mixmix.export.verify import MIN_PROBE_IMAGES
from mixmix.models.model import Model
from mixmix.runtime.progress import Progress, showing
from mixmix.runtimes.latency import compare_latency_ms

__all__ = ["SweepRow", "sweep"]

_PROBE_IMAGES = 256


@dataclass(frozen=True)
class SweepRow:
    """A setting of a sweep.

    Attributes:
        setting: its bits, or ``float``.
        file: that was written.
        size_bytes: of the file.
        latency_ms: of one image on one thread.
        loss: points of accuracy below the float network: measured, or estimated; None without
            labeled and held-out images.
        upper_bound: of the estimate.
        top1: measured accuracy in percent.
    """

    setting: str
    file: Path
    size_bytes: int
    latency_ms: float
    loss: float | None = None
    upper_bound: float | None = None
    top1: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"file": str(self.file)}


def sweep(
    model: Model,
    images: ImageSet,
    held_out: ImageSet | None,
    settings: Sequence[str],
    out: str | Path,
    *,
    data: Any = None,
    base: Quantize | None = None,
    writing: Mapping[str, Any] | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[SweepRow]:
    """Quantize a network with each of several settings, and compare the files.

    Args:
        model: the network; it is not changed.
        images: to compress with.
        held_out: other images, for estimates of the loss; None for no estimates.
        settings: bits, such as ``W8A8``.
        out: folder for a file of each setting.
        data: labeled images, as for ``evaluate``: measure the loss instead of estimating it.
        base: how to quantize, but for the bits.
        writing: further arguments of ``export``.
        seed: seed of every random draw.
        on_progress: called with (a description, fraction done); None shows it.

    Returns:
        The float network, then the settings in their order.

    Raises:
        InputError: if there are no settings, or one is not of the form ``W4A8``.
    """
    if not settings:
        raise InputError("no settings to compare; give some, such as W8A8,W4A8")
    methods = [replace(base or Quantize(), bits=bits) for bits in dict.fromkeys(settings)]
    plain = Compressed(model.module, model.spec)
    enough = len(images) >= MIN_PROBE_IMAGES
    probe = images.images[:_PROBE_IMAGES] if enough else None
    artifacts: dict[str, Artifact] = {}
    with showing("comparing settings", on_progress) as advance:
        for method in (None, *methods):
            name = FLOAT if method is None else method.setting

            def report(what: str, done: float, name: str = name) -> None:
                advance(f"{name}: {what}", done)

            compressed = plain
            if method is not None:
                compressed = compress(model, images, method, seed=seed, on_progress=report)
            path = Path(out) / f"{name}.onnx"
            artifacts[name] = export(compressed, path, probe=probe, **(writing or {}))
        latencies = compare_latency_ms([each.path for each in artifacts.values()], quantile=0.0)
        rows = [
            SweepRow(name, each.path, each.size_bytes, latencies[str(each.path)])
            for name, each in artifacts.items()
        ]
        if data is not None:
            return _measured(rows, data)
        return rows if held_out is None else _estimated(rows, artifacts, model, held_out)


def _measured(rows: Sequence[SweepRow], data: Any) -> list[SweepRow]:
    top1 = [evaluate(row.file, data).top1 for row in rows]
    return [
        replace(row, loss=top1[0] - found, top1=found)
        for row, found in zip(rows, top1, strict=True)
    ]


def _estimated(
    rows: Sequence[SweepRow],
    artifacts: Mapping[str, Artifact],
    model: Model,
    held_out: ImageSet,
) -> list[SweepRow]:
    plain, *others = rows
    found = [estimate_accuracy(artifacts[row.setting], model, held_out) for row in others]
    return [replace(plain, loss=0.0, upper_bound=0.0)] + [
        replace(row, loss=estimate.predicted_drop, upper_bound=estimate.upper_bound)
        for row, estimate in zip(others, found, strict=True)
    ]
