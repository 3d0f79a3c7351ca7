"""The smallest, or the fastest, ONNX file whose accuracy loss and size are within limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from mixmix.compress.compress import compress
from mixmix.compress.method import Compressed, Method
from mixmix.compress.prune.channels.prune_channels import PruneChannels
from mixmix.compress.quantize.bits import FLOAT, parse_bits
from mixmix.compress.quantize.quantize import Quantize
from mixmix.compress.quantize.sensitivity import measure_sensitivity
from mixmix.compress.quantize.sensitivity_table import SensitivityTable
from mixmix.compress.recover.features import ReconstructFeatures
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError, first_line, warn
from mixmix.evaluate.estimation import estimate_accuracy
from mixmix.export import Artifact, export
from mixmix.export.verify import MIN_PROBE_IMAGES
from mixmix.models.model import Model
from mixmix.runtime.progress import Progress, showing
from mixmix.runtime.storage import write_atomic
from mixmix.runtimes.float_onnx import float_onnx_bytes
from mixmix.runtimes.latency import compare_latency_ms
from mixmix.search.limits import Limits, parse_size
from mixmix.search.size import STORED_BITS, SizeFitting

__all__ = ["SearchResult", "SearchStep", "search"]

_NUM_BISECTIONS = 2
_EIGHT_BITS = "W8A8"
# Layers that stay in float if 8 bits lose too much, and multiplications that pruning leaves.
_FLOAT_SHARES = (0.125, 0.25, 0.5)
_MACS = 0.7
_PROBE_IMAGES = 256


@dataclass(frozen=True)
class SearchStep:
    """A file that a search has tried.

    Attributes:
        setting: what was applied.
        size_bytes: of the file.
        latency_ms: of one image on one thread, with ``aim="speed"``.
        predicted_drop: estimated loss of accuracy in points; None without held-out images.
        upper_bound: of the estimate.
        within: whether it meets all limits.
    """

    setting: str
    size_bytes: int
    latency_ms: float | None
    predicted_drop: float | None
    upper_bound: float | None
    within: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class SearchResult:
    """The chosen network, its file and its step, and all files that were tried, in order.

    ``sensitivity`` is what bits were chosen by, or None if they are the same for all layers.
    """

    compressed: Compressed
    artifact: Artifact
    chosen: SearchStep
    path: tuple[SearchStep, ...]
    sensitivity: SensitivityTable | None = None


def search(
    model: Model,
    images: ImageSet,
    held_out: ImageSet | None,
    limits: Limits,
    out: str | Path,
    *,
    base: Quantize | None = None,
    writing: Mapping[str, Any] | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> SearchResult:
    """Search for the smallest or fastest ONNX file within limits.

    With ``max_size`` alone, bits of weights are chosen per layer for a file of that size. With
    ``max_loss``, the search goes down from 8 bits for all weights to 4 and 2 (3 take the space of
    4), and stops at the first that loses too much: between it and the last, bits are chosen per
    layer by sensitivity, twice. If 8 bits lose too much, activations get 8, too, then an eighth, a
    quarter and half of the layers, the most sensitive ones, stay in float, and then all of them.

    For speed, the float network and W8A8 are tried: fewer bits are not faster in ONNX Runtime.

    At the end, the smallest of the quantized files that lose at most half of what is allowed is
    made again with its channels pruned to 70% of the MACs; for size, only if that can become the
    smallest.

    Args:
        model: the network; it is not changed.
        images: to compress with.
        held_out: other images, for estimates; needed with ``max_loss``.
        limits: to meet.
        out: ``.onnx`` file to write.
        base: how to quantize; the bits of its weights are chosen by the search.
        writing: further arguments of ``export``; ``optimize_for`` is the aim unless it is given.
        seed: seed of every random draw.
        on_progress: called with (a description, fraction done); None shows it.

    Raises:
        InputError: if there are no held-out images for ``max_loss``, or nothing meets the limits.
    """
    if limits.max_loss is not None and held_out is None:
        raise InputError("max_loss is judged on held-out images; hold out some, such as 64")
    if Path(out).suffix != ".onnx":
        raise InputError(f"a search writes an .onnx file, got {out}; leave out the limits")
    options = {"optimize_for": limits.aim, **(writing or {})}
    with TemporaryDirectory() as folder, showing("searching", on_progress) as advance:
        trials = _Trials(model, images, held_out, limits, Path(folder), options, seed, advance)
        trials.explore(base or Quantize())
        index = trials.best()
        artifact = replace(trials.artifacts[index], path=Path(out))
        write_atomic(artifact.path, trials.artifacts[index].path.read_bytes())
    chosen, path = trials.steps[index], tuple(trials.steps)
    return SearchResult(trials.tried[index], artifact, chosen, path, trials.sensitivity)


class _Trials:
    """Files that were tried, and what is within the limits."""

    def __init__(
        self,
        model: Model,
        images: ImageSet,
        held_out: ImageSet | None,
        limits: Limits,
        folder: Path,
        options: Mapping[str, Any],
        seed: int,
        on_progress: Progress,
    ) -> None:
        self._model, self._images, self._held_out = model, images, held_out
        self._limits, self._folder, self._options = limits, folder, options
        self._seed, self._on_progress = seed, on_progress
        spec = model.spec
        self._float_bytes = len(float_onnx_bytes(model.module, spec.input_shape, name=spec.name))
        self.max_bytes: float = math.inf
        if limits.max_size is not None:
            self.max_bytes = parse_size(limits.max_size, self._float_bytes)
        enough = len(images) >= MIN_PROBE_IMAGES
        self._probe: Tensor | None = images.images[:_PROBE_IMAGES] if enough else None
        self.steps: list[SearchStep] = []
        self.tried: list[Compressed] = []
        self._methods: list[Sequence[Method]] = []
        self.artifacts: list[Artifact] = []
        self.sensitivity: SensitivityTable | None = None

    def explore(self, base: Quantize) -> None:
        """Try files, from the safest to the smallest or fastest."""
        if self._limits.max_loss is None:
            self._fit(base, int(self.max_bytes))
            return
        if self._limits.aim == "speed":
            self._fastest(base)
        else:
            self._smallest(base)
            if not any(step.within for step in self.steps):
                self.attempt(FLOAT, [])
        self._prune()

    def _fastest(self, base: Quantize) -> None:
        """The float network, and 8 bits, which runtimes compute in integers."""
        self.attempt(FLOAT, [])
        eight = replace(base, bits=_EIGHT_BITS)
        if not self.attempt(eight.setting, [eight]):
            self._keep_some_in_float(eight)

    def _smallest(self, base: Quantize) -> None:
        """From 8 bits for all weights to 2, then bits per layer between the last two."""
        activation_bits, high, low = parse_bits(base.bits)[1], math.inf, 0.0
        for bits in STORED_BITS[::-1]:
            method = replace(base, bits=f"W{bits}A{activation_bits}")
            self.attempt(method.setting, [method])
            if self._too_lossy():
                low = self.steps[-1].size_bytes
                break
            high = self.steps[-1].size_bytes
        if high is math.inf:
            self._keep_some_in_float(replace(base, bits=_EIGHT_BITS))
        if not low or high is math.inf:
            return
        fitting = self._fitting(base)
        for _ in range(_NUM_BISECTIONS):
            # The largest file that is allowed, if none has been, and else one in between.
            middle = round(min(self.max_bytes, math.sqrt(low * min(high, self.max_bytes))))
            method = fitting.method(middle)
            if self.attempt(self._name(method), [method]):
                high = self.steps[-1].size_bytes
            else:
                low = middle

    def _keep_some_in_float(self, eight: Quantize) -> None:
        """8 bits but for the most sensitive layers, which stay in float."""
        tried = [step.setting for step in self.steps]
        if eight.setting not in tried and self.attempt(eight.setting, [eight]):
            return
        whole = Compressed(self._model.module, self._model.spec)
        table = measure_sensitivity(
            whole,
            self._images.images,
            choices=[_EIGHT_BITS],
            quantize=eight,
            seed=self._seed,
            on_progress=self._on_progress,
        )
        worst = sorted(table.layers, key=lambda layer: -max(layer.divergence.values()))
        for share in _FLOAT_SHARES:
            names = [layer.name for layer in worst[: math.ceil(share * len(worst))]]
            kept = dict.fromkeys(names, FLOAT) | dict(eight.layer_bits or {})
            method = replace(eight, layer_bits=kept)
            if self.attempt(f"{_EIGHT_BITS}, {len(names)} layers in float", [method]):
                return

    def _prune(self) -> None:
        """Prune the smallest file that loses at most half of what is allowed."""
        largest = self._limits.max_loss or 0.0
        careful = [
            (step, methods)
            for step, methods in zip(self.steps, self._methods, strict=True)
            if methods and 2 * (step.upper_bound or 0.0) <= largest
        ]
        if not careful:
            return
        step, methods = min(careful, key=lambda each: each[0].size_bytes)
        smallest = min((each.size_bytes for each in self.steps if each.within), default=math.inf)
        if self._limits.aim == "size" and _MACS * step.size_bytes >= smallest:
            return
        pruning = PruneChannels(max_macs=_MACS, recovery=ReconstructFeatures())
        try:
            self.attempt(f"{100 * _MACS:g}% of the MACs, {step.setting}", [pruning, *methods])
        except InputError as error:
            warn(f"no file with fewer channels was tried: {first_line(error)}")

    def _too_lossy(self) -> bool:
        bound, largest = self.steps[-1].upper_bound, self._limits.max_loss
        return bound is not None and largest is not None and bound > largest

    def _fitting(self, base: Quantize) -> SizeFitting:
        whole = Compressed(self._model.module, self._model.spec)
        fitting = SizeFitting(
            whole, self._images, base, seed=self._seed, on_progress=self._on_progress
        )
        self.sensitivity = fitting.table
        return fitting

    def _fit(self, base: Quantize, max_bytes: int) -> None:
        """Bits per layer for a size; once more with less if rounding made the file larger."""
        fitting, asked = self._fitting(base), max_bytes
        for _ in range(3):
            method = fitting.method(asked)
            if self.attempt(self._name(method), [method]):
                return
            asked -= self.steps[-1].size_bytes - max_bytes

    @staticmethod
    def _name(method: Quantize) -> str:
        if not method.layer_bits:
            return method.setting
        bits = sorted({each.partition("A")[0] for each in method.layer_bits.values()})
        return f"{'/'.join(bits)}A{parse_bits(method.bits)[1]}"

    def attempt(self, setting: str, methods: Sequence[Method]) -> bool:
        """Compress, export to a temporary file and estimate; whether it meets the limits."""
        compressed = Compressed(self._model.module, self._model.spec)
        if methods:
            compressed = compress(
                self._model,
                self._images,
                methods,
                seed=self._seed,
                on_progress=lambda what, done: self._on_progress(f"{setting}: {what}", done),
            )
        path = self._folder / f"{len(self.steps)}.onnx"
        artifact = export(compressed, path, probe=self._probe, **self._options)
        drop = bound = None
        if not methods:  # rounding in another runtime loses nothing
            drop = bound = 0.0
        elif self._held_out is not None:
            estimate = estimate_accuracy(artifact, self._model, self._held_out)
            drop, bound = estimate.predicted_drop, estimate.upper_bound
        largest = self._limits.max_loss
        within = artifact.size_bytes <= self.max_bytes and (
            largest is None or (bound is not None and bound <= largest)
        )
        self.steps.append(SearchStep(setting, artifact.size_bytes, None, drop, bound, within))
        self.tried.append(compressed)
        self._methods.append(methods)
        self.artifacts.append(artifact)
        return within

    def best(self) -> int:
        """Index of the smallest or fastest of those within the limits."""
        within = [index for index, step in enumerate(self.steps) if step.within]
        if not within:
            closest = min(self.steps, key=lambda step: step.size_bytes)
            raise InputError(
                f"no file of {self._model.spec.name} meets all limits: the smallest that was tried "
                f"({closest.setting}) has {closest.size_bytes:,} bytes"
                + f" and may lose {closest.upper_bound or 0:.1f} points" * (self._loss_is_limited)
                + "; raise --max-loss or --max-size"
            )
        if not (self._loss_is_limited and self._limits.aim == "speed"):
            return min(within, key=lambda index: self.steps[index].size_bytes)
        # At the end and in alternation, so that other load affects all of them equally.
        found = compare_latency_ms([artifact.path for artifact in self.artifacts], quantile=0.0)
        self.steps = [
            replace(step, latency_ms=latency)
            for step, latency in zip(self.steps, found.values(), strict=True)
        ]
        return min(within, key=lambda index: self.steps[index].latency_ms or math.inf)

    @property
    def _loss_is_limited(self) -> bool:
        return self._limits.max_loss is not None
