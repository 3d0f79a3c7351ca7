"""Which layers differ between a compressed model and its original, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor

from mixmix._display import html_table, summary
from mixmix.compress.method import Compressed, Progress
from mixmix.errors import InputError
from mixmix.evaluate.graph_layers import GraphLayers
from mixmix.evaluate.layer_outputs import Layer, LayerOutputs
from mixmix.evaluate.predictor import Evaluated, Predictor, is_file
from mixmix.export import Artifact
from mixmix.graph.costs import count_macs
from mixmix.models.loading import load
from mixmix.models.spec import ModelSpec

__all__ = ["LayerError", "LayerErrors", "layer_errors", "match_layers"]

_BATCH, _NUM_BINS = 8, 48
# Multiplications for errors of layers alone: about ten seconds on a core.
_MOST_MACS = 3e11
# What is as good as equal, and as bad as anything.
_BEST_DB, _WORST_DB = 120.0, -20.0


@dataclass(frozen=True)
class LayerError:
    """The error of a layer of a model, compared with that of its original.

    Signal-to-noise ratios are ``10 log10(signal / noise)`` of sums of squares, in dB: 20 dB is an
    error of a tenth, 40 dB of a hundredth. They are within -20 and 120.

    Attributes:
        name: of the layer in the original.
        own_name: of the layer in the model.
        weight_bits: bits of the weights, or None for float.
        activation_bits: bits of the input, or None for float.
        snr_db: of the outputs, with the errors of all earlier layers.
        weight_snr_db: of the weights; None if they are not comparable.
        alone_snr_db: of the outputs of the whole network if this layer alone has the weights and
            the input of the model; None where it was not computed.
        limits: least and largest output of the layer in the original.
        own_limits: likewise in the model.
        counts: values of the outputs in equal bins, in the original, for the first images.
        own_counts: likewise in the model.
        bins: least and largest value of these bins.
    """

    name: str
    own_name: str
    weight_bits: int | None
    activation_bits: int | None
    snr_db: float
    weight_snr_db: float | None
    alone_snr_db: float | None
    limits: tuple[float, float]
    own_limits: tuple[float, float]
    counts: tuple[int, ...] = ()
    own_counts: tuple[int, ...] = ()
    bins: tuple[float, float] = (0.0, 0.0)

    @property
    def bits(self) -> str:
        """Such as ``W4A8``, or ``float``."""
        if self.weight_bits is None:
            return "float"
        return f"W{self.weight_bits}" + (f"A{self.activation_bits}" if self.activation_bits else "")


@dataclass(frozen=True, repr=False)
class LayerErrors:
    """Errors of the layers of a model, in order of execution.

    Attributes:
        layers: those that model and original have in common.
        unmatched: names of layers of the model that the original does not have.
        snr_db: of the outputs of the whole network.
        num_images: number of images.
    """

    layers: tuple[LayerError, ...]
    unmatched: tuple[str, ...]
    snr_db: float
    num_images: int

    def __repr__(self) -> str:
        worst = [each.name for each in self.costly(3)]
        facts = {"layers": len(self.layers), "snr_db": self.snr_db, "costly": tuple(worst)}
        return summary("LayerErrors", facts | {"images": self.num_images})

    def _repr_html_(self) -> str:
        return html_table(self.rows, caption=repr(self))

    def costly(self, number: int) -> list[LayerError]:
        """The quantized layers that cost most, the worst first.

        By their error alone if it is known, else by the noise that they add to that of the layer
        before.
        """
        changed = [each for each in self.layers if each.weight_bits is not None]
        if changed and all(each.alone_snr_db is not None for each in changed):
            return sorted(changed, key=lambda each: each.alone_snr_db or 0.0)[:number]
        before = [_BEST_DB, *(each.snr_db for each in self.layers)]
        added = {
            each.name: _noise(each.snr_db) - _noise(earlier)
            for each, earlier in zip(self.layers, before, strict=False)
        }
        return sorted(changed, key=lambda each: -added[each.name])[:number]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of a table, in dB."""
        has_alone = any(each.alone_snr_db is not None for each in self.layers)
        return [
            {"layer": each.name, "bits": each.bits, "outputs dB": round(each.snr_db, 1)}
            | {"weights dB": _rounded(each.weight_snr_db)}
            | ({"alone dB": _rounded(each.alone_snr_db)} if has_alone else {})
            | {"range before": _range(each.limits), "after": _range(each.own_limits)}
            for each in self.layers
        ]

    def advice(self) -> list[str]:
        """What to type to get a more accurate model, the most promising first."""
        worst = self.costly(3)
        if not worst:
            return []
        narrow = [each for each in worst if each.bits != "float" and _least_bits(each) < 8]
        lines = []
        if narrow:
            options = " ".join(f"--keep {each.name}=W8A8" for each in narrow)
            lines.append(f"8 bits for the layers that cost most: {options}")
        options = " ".join(f"--keep {each.name}" for each in worst)
        lines.append(f"float for the layers that cost most: {options}")
        if narrow:
            lines.append("more bits for all layers, such as --bits W8A8")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "layers": [_listed(asdict(each)) for each in self.layers],
            "unmatched": list(self.unmatched),
            "snr_db": self.snr_db,
            "num_images": self.num_images,
            "costly": [each.name for each in self.costly(3)],
            "advice": self.advice(),
        }


def layer_errors(
    model: Evaluated,
    reference: Evaluated,
    images: Tensor,
    *,
    spec: ModelSpec | Mapping[str, Any] | None = None,
    on_progress: Progress = lambda what, fraction: None,
) -> LayerErrors:
    """Compare the layers of a model with those of its original.

    Layers are matched by name, then by the order of those whose outputs have the same shape.

    >>> import mixmix, torch
    >>> images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> small = mixmix.compress("bundled:resnet", images, "W8A8")
    >>> errors = layer_errors(small, "bundled:resnet", images)
    >>> errors.layers[0].bits, errors.layers[0].snr_db > 20
    ('W8A8', True)

    Args:
        model: a ``Compressed``, an ``Artifact``, an ONNX file or a network, as for ``evaluate``.
        reference: the original, of any of these types.
        images: (N, C, H, W) in [0, 1]; a few are enough.
        spec: as for ``evaluate``.
        on_progress: called with (current step, fraction done).

    Raises:
        InputError: if a model cannot be loaded, or they have no layers in common.
        CaptureError: if a network cannot be captured as a graph.
    """
    own, original = (_layers_of(each, spec) for each in (model, reference))
    if not own.layers or not original.layers:
        empty = own if not own.layers else original
        raise InputError(f"{empty.spec.name} has no convolution or linear layer to compare")
    batches = images[: len(images) // _BATCH * _BATCH or len(images)].split(_BATCH)
    sums: dict[int, _Sums] = {}
    matches: list[tuple[int, int]] = []
    total = _Sums()
    for number, batch in enumerate(batches):
        (found, found_output), (wanted, wanted_output) = own.run(batch), original.run(batch)
        if not number:
            shapes = [tuple(each.shape) for each in found], [tuple(e.shape) for e in wanted]
            matches = match_layers((own.layers, original.layers), shapes)
            sums = {mine: _Sums() for mine, _ in matches}
        for mine, theirs in matches:
            sums[mine].add(found[mine], wanted[theirs])
        if found_output.shape == wanted_output.shape:
            total.add(found_output, wanted_output)
        on_progress("compare layers", (number + 1) / len(batches) / 2)
    if not matches:
        raise InputError(
            f"{own.spec.name} and {original.spec.name} have no layers in common; compare a model "
            "with its original"
        )
    alone = _alone(own, original, matches, images[: 2 * _BATCH], on_progress)
    layers = tuple(
        sums[mine].error(own.layers[mine], original.layers[theirs], alone.get(mine))
        for mine, theirs in matches
    )
    matched = {mine for mine, _ in matches}
    others = tuple(layer.name for i, layer in enumerate(own.layers) if i not in matched)
    return LayerErrors(layers, others, total.snr_db, sum(map(len, batches)))


def match_layers(
    layers: tuple[Sequence[Layer], Sequence[Layer]],
    shapes: tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]],
) -> list[tuple[int, int]]:
    """Indices of the same layers in two models, by name, then by order; in order of the first.

    Args:
        layers: of both models.
        shapes: of their outputs; only layers of the same shape match.
    """
    mine, theirs = layers
    found: dict[int, int] = {}
    for level in range(max((len(each.aliases) for each in (*mine, *theirs)), default=0)):
        for i, layer in enumerate(mine):
            if i in found or level >= len(layer.aliases) or not layer.aliases[level]:
                continue
            for j, other in enumerate(theirs):
                is_same = layer.aliases[level] in other.aliases and shapes[0][i] == shapes[1][j]
                if is_same and j not in found.values():
                    found[i] = j
                    break
    left = [i for i in range(len(mine)) if i not in found]
    others = [j for j in range(len(theirs)) if j not in found.values()]
    matcher = SequenceMatcher(
        None, [shapes[0][i] for i in left], [shapes[1][j] for j in others], autojunk=False
    )
    for start, behind, size in matcher.get_matching_blocks():
        found |= {left[start + k]: others[behind + k] for k in range(size)}
    return sorted(found.items())


def _layers_of(model: Evaluated, spec: ModelSpec | Mapping[str, Any] | None) -> LayerOutputs:
    path = model.path if isinstance(model, Artifact) else model
    if is_file(path):
        if not str(path).endswith(".onnx"):
            raise InputError(f"layers of {path} are not read; compare networks and .onnx files")
        from mixmix.evaluate.onnx_layers import OnnxLayers  # slow to import

        return OnnxLayers(path, Predictor(model, spec).spec)
    if isinstance(model, Compressed):
        return GraphLayers(model.module, model.spec)
    assert not isinstance(model, Artifact)
    network = load(model, **(spec if isinstance(spec, Mapping) else {}))
    return GraphLayers(network.module, network.spec)


@torch.no_grad()
def _alone(
    own: LayerOutputs,
    original: LayerOutputs,
    matches: Sequence[tuple[int, int]],
    images: Tensor,
    on_progress: Progress,
) -> dict[int, float]:
    """Signal-to-noise of the outputs if one layer alone is changed; empty if that takes long."""
    if not isinstance(original, GraphLayers):
        return {}
    macs = count_macs(original.module, original.spec.input_shape) * len(images) * len(matches)
    if macs > _MOST_MACS:
        return {}
    _, wanted = original.run(images)
    found = {}
    for number, (mine, theirs) in enumerate(matches):
        if own.layers[mine].weight_bits is None:
            continue
        outputs = original.output_with(theirs, own.layers[mine], images)
        if outputs is None:
            return {}
        sums = _Sums()
        sums.add(outputs, wanted)
        found[mine] = sums.snr_db
        on_progress("compare layers", 0.5 + (number + 1) / len(matches) / 2)
    return found


class _Sums:
    """Sums over the values of a layer in two models."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0
        self._limits = self._own_limits = (math.inf, -math.inf)
        self._counts: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._bins = (0.0, 0.0)

    def add(self, found: Tensor, wanted: Tensor) -> None:
        found, wanted = found.detach().float(), wanted.detach().float()
        self._signal += float(wanted.square().sum(dtype=torch.float64))
        self._noise += float((found - wanted).square().sum(dtype=torch.float64))
        self._limits = _joined(self._limits, wanted)
        self._own_limits = _joined(self._own_limits, found)
        if self._counts is None:  # of the first images
            self._bins = _joined(_joined((math.inf, -math.inf), wanted), found)
            mine, theirs = (torch.histc(each, _NUM_BINS, *self._bins) for each in (found, wanted))
            self._counts = _integers(theirs), _integers(mine)

    @property
    def snr_db(self) -> float:
        return _decibels(self._signal, self._noise)

    def error(self, own: Layer, original: Layer, alone: float | None) -> LayerError:
        counts, own_counts = self._counts or ((), ())
        return LayerError(
            name=original.name,
            own_name=own.name,
            weight_bits=own.weight_bits,
            activation_bits=None if own.grid is None else own.grid.bits,
            snr_db=self.snr_db,
            weight_snr_db=_weight_snr(own.weight, original.weight),
            alone_snr_db=alone,
            limits=self._limits,
            own_limits=self._own_limits,
            counts=counts,
            own_counts=own_counts,
            bins=self._bins,
        )


def _weight_snr(own: Tensor | None, original: Tensor | None) -> float | None:
    if own is None or original is None:
        return None
    if own.shape != original.shape and own.ndim == 2 and own.T.shape == original.shape:
        own = own.T
    if own.shape != original.shape:
        return None
    sums = _Sums()
    sums.add(own, original)
    return sums.snr_db


def _decibels(signal: float, noise: float) -> float:
    if noise <= 0 or not signal:
        return _BEST_DB if noise <= 0 else _WORST_DB
    if not math.isfinite(noise / signal):
        return _WORST_DB
    return min(_BEST_DB, max(_WORST_DB, 10 * math.log10(signal / noise)))


def _noise(snr_db: float) -> float:
    return float(10 ** (-snr_db / 10))


def _joined(limits: tuple[float, float], values: Tensor) -> tuple[float, float]:
    if not values.numel():
        return limits
    return min(limits[0], float(values.min())), max(limits[1], float(values.max()))


def _integers(counts: Tensor) -> tuple[int, ...]:
    return tuple(int(each) for each in counts.tolist())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _range(limits: tuple[float, float]) -> str:
    return f"{limits[0]:.3g} to {limits[1]:.3g}"


def _least_bits(error: LayerError) -> int:
    return min(bits for bits in (error.weight_bits, error.activation_bits) if bits is not None)


def _listed(content: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in content.items()}
