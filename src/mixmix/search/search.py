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
from mixmix.compress.quantize.bits import parse_bits
from mixmix.compress.quantize.quantize import Quantize
from mixmix.compress.recover.features import ReconstructFeatures
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.evaluate.estimation import estimate_accuracy
from mixmix.export import Artifact, export
from mixmix.export.verify import MIN_PROBE_IMAGES
from mixmix.models.model import Model
from mixmix.runtime.progress import Progress, showing
from mixmix.runtimes.float_onnx import float_onnx_bytes
from mixmix.runtimes.latency import compare_latency_ms
from mixmix.search.limits import Limits, parse_size
from mixmix.search.size import SizeFitting

__all__ = ["SearchResult", "SearchStep", "search"]

_NUM_BISECTIONS = 2
_MACS = (0.7, 0.5)
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
    """The chosen network, its file and its step, and all files that were tried, in order."""

    compressed: Compressed
    artifact: Artifact
    chosen: SearchStep
    path: tuple[SearchStep, ...]


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
    ``max_loss``, the search goes down from 8 bits for all weights to 4 and 2, then bisects bits per
    layer between the last that is within the limits and the first that is not, then prunes channels
    (70 and 50% of the MACs); for speed it prunes at 8 bits. If nothing is within the limits, the
    float file is, unless it is too large.

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
        compressed, chosen = trials.best()
        artifact = trials.written(compressed, Path(out))
    return SearchResult(compressed, artifact, chosen, tuple(trials.steps))


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
        self._tried: list[Compressed] = []

    def explore(self, base: Quantize) -> None:
        """Try files, from the safest to the smallest or fastest."""
        activation_bits = parse_bits(base.bits)[1]
        uniform = [replace(base, bits=f"W{bits}A{activation_bits}") for bits in (8, 4, 2)]
        if self._limits.max_loss is None:
            self._fit(base, int(self.max_bytes))
            return
        if self._limits.aim == "speed":
            self.attempt("float", [])
            self.attempt(uniform[0].setting, [uniform[0]])
            best: Quantize = uniform[0]
        else:
            best = self._descend(uniform)
        for macs in _MACS:
            methods = [PruneChannels(max_macs=macs, recovery=ReconstructFeatures()), best]
            if not self.attempt(f"{100 * macs:g}% of the MACs, {self._name(best)}", methods):
                break
        if not any(step.within for step in self.steps) and self._limits.aim == "size":
            self.attempt("float", [])

    def _descend(self, uniform: Sequence[Quantize]) -> Quantize:
        """From 8 bits to 2, then between the last two; the smallest that is within the limits."""
        best, high, low = uniform[0], 0, 0
        for method in uniform:
            if self.attempt(method.setting, [method]):
                best, high = method, self.steps[-1].size_bytes
            elif self._too_lossy():
                low = self.steps[-1].size_bytes
                break
        if not (low and high):
            return best
        fitting = self._fitting(uniform[0])
        for _ in range(_NUM_BISECTIONS):
            middle = round(math.sqrt(low * high))
            method = fitting.method(middle)
            if self.attempt(self._name(method), [method]):
                best, high = method, self.steps[-1].size_bytes
            else:
                low = middle
        return best

    def _too_lossy(self) -> bool:
        bound, largest = self.steps[-1].upper_bound, self._limits.max_loss
        return bound is not None and largest is not None and bound > largest

    def _fitting(self, base: Quantize) -> SizeFitting:
        whole = Compressed(self._model.module, self._model.spec)
        return SizeFitting(
            whole, self._images, base, seed=self._seed, on_progress=self._on_progress
        )

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
        artifact = self.written(compressed, path)
        drop = bound = latency = None
        if self._held_out is not None:
            estimate = estimate_accuracy(artifact, self._model, self._held_out)
            drop, bound = estimate.predicted_drop, estimate.upper_bound
        if self._limits.aim == "speed":
            latency = compare_latency_ms([path])[str(path)]
        largest = self._limits.max_loss
        within = artifact.size_bytes <= self.max_bytes and (
            largest is None or (bound is not None and bound <= largest)
        )
        self.steps.append(SearchStep(setting, artifact.size_bytes, latency, drop, bound, within))
        self._tried.append(compressed)
        return within

    def written(self, compressed: Compressed, path: Path) -> Artifact:
        return export(compressed, path, probe=self._probe, **self._options)

    def best(self) -> tuple[Compressed, SearchStep]:
        """The smallest or fastest of those within the limits."""
        pairs = [pair for pair in zip(self._tried, self.steps, strict=True) if pair[1].within]
        if not pairs:
            closest = min(self.steps, key=lambda step: step.size_bytes)
            raise InputError(
                f"no file of {self._model.spec.name} meets all limits: the smallest that was tried "
                f"({closest.setting}) has {closest.size_bytes:,} bytes; raise --max-loss or "
                "--max-size"
            )
        if self._limits.max_loss is not None and self._limits.aim == "speed":
            return min(pairs, key=lambda pair: pair[1].latency_ms or math.inf)
        return min(pairs, key=lambda pair: pair[1].size_bytes)
