"""What can be done with a network, and what it takes, before anything is computed for long."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from mixmix._display import html_table, summary
from mixmix.compress.compress import compress
from mixmix.compress.quantize.quantize import Quantize
from mixmix.compress.quantize.records import record_layers
from mixmix.errors import (
    CaptureError,
    ExportError,
    InputError,
    MixmixWarning,
    first_line,
    raise_if_out_of_memory,
)
from mixmix.evaluate.normalization import natural_images, normalization_report
from mixmix.graph.capture import capture
from mixmix.graph.channels.discovery import find_groups
from mixmix.graph.costs import count_layer_macs, count_macs
from mixmix.models.loading import Reference, load
from mixmix.models.model import Model, normalize
from mixmix.models.spec import ModelSpec
from mixmix.models.zoo import Zoo
from mixmix.runtime.machine import peak_memory_bytes
from mixmix.runtime.progress import showing
from mixmix.runtimes.float_onnx import float_onnx_bytes
from mixmix.synthesis.automatic import settings_for
from mixmix.synthesis.schedule import plan
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.synthesize import synthesize

__all__ = ["Inspection", "InspectedLayer", "inspect"]

# Multiplications of a probe, which takes seconds.
_PROBE_MACS = 2e10
_PROBE_ITERATIONS, _MOST_PROBE_IMAGES = 4, 64
_MACS_OF_STEP = 3  # forward and backward
# A quantized file takes about three times as long as one in floats, which is written to be timed.
_FLOAT_EXPORTS = 4
# Of the memory that is planned for, which has a margin.
_PART_OF_PLAN = 0.7


@dataclass(frozen=True)
class InspectedLayer:
    """What each method can do with a layer.

    Attributes:
        name: of the layer.
        kind: its class.
        num_parameters: its parameters.
        macs: multiplications for an image.
        quantize: ``yes``, or why not.
        prune_weights: whether single weights can be pruned.
        prune_channels: ``yes``, or why its output channels cannot be pruned.
    """

    name: str
    kind: str
    num_parameters: int
    macs: int
    quantize: str
    prune_weights: bool
    prune_channels: str


@dataclass(frozen=True, repr=False)
class Inspection:
    """What can be done with a network.

    Attributes:
        spec: its spec.
        task: what its outputs are.
        num_parameters: its parameters.
        macs: multiplications for an image.
        num_batch_norms: BatchNorms with statistics.
        normalization: ``ok``, ``doubtful`` or ``unknown``.
        normalization_reason: why.
        layers: in order of execution; empty if the network cannot be captured as a graph.
        problem: why methods on its graph do not work, or empty.
        images: how images are made, in words.
        seconds: estimates by step: ``load``, ``images``, ``quantize`` (to W8A8) and ``export``
            (to an ONNX file that is verified and timed).
        memory_gib: estimate of the peak of a process that makes images and quantizes, on the CPU.
    """

    spec: ModelSpec
    task: str
    num_parameters: int
    macs: int
    num_batch_norms: int
    normalization: str
    normalization_reason: str
    layers: tuple[InspectedLayer, ...]
    problem: str
    images: str
    seconds: Mapping[str, float]
    memory_gib: float | None

    def __repr__(self) -> str:
        return summary("Inspection", self.facts)

    def _repr_html_(self) -> str:
        return html_table([vars(each) for each in self.layers], caption=repr(self))

    @property
    def facts(self) -> dict[str, Any]:
        """The answers but for the layers, for people."""
        seconds = self.seconds
        total = sum(seconds.values())
        times = ", ".join(f"{name} {_duration(each)}" for name, each in seconds.items())
        return {
            "name": self.spec.name,
            "loads": "yes",
            "task": self.task,
            "input": " x ".join(map(str, self.spec.input_shape)),
            "mean and std": f"{self.normalization}: {self.normalization_reason}",
            "parameters": f"{self.num_parameters:,}",
            "multiplications": f"{self.macs:,}",
            "BatchNorm": self.num_batch_norms or "none",
            "graph": self.problem or "captured",
            "images": self.images,
            "time": f"about {_duration(total)} ({times})" if seconds else "unknown",
            "memory": "unknown" if self.memory_gib is None else f"about {self.memory_gib:.1f} GiB",
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "spec": self.spec.to_dict(),
            "task": self.task,
            "num_parameters": self.num_parameters,
            "num_macs": self.macs,
            "num_batch_norms": self.num_batch_norms,
            "normalization": self.normalization,
            "normalization_reason": self.normalization_reason,
            "problem": self.problem,
            "images": self.images,
            "seconds": dict(self.seconds),
            "memory_gib": self.memory_gib,
            "layers": [vars(each) for each in self.layers],
        }

    def draft_spec(self) -> str:
        """A spec file (TOML) with what is known, to be corrected."""
        spec, said = self.spec, []
        for name, value in spec.to_dict().items():
            is_long = name == "classes" and len(value) > 20
            if value in (None, "", [], ()) or name in ("sha256", "top1") or is_long:
                continue
            said.append(f"{name} = {_toml(value)}")
        return "\n".join(said)


def inspect(reference: Reference, *, probe: bool = True, **fields: Any) -> Inspection:
    """Say what can be done with a network, and estimate what it takes on this machine.

    >>> found = inspect("bundled:resnet", probe=False)
    >>> found.task, found.normalization, found.layers[0].quantize
    ('10 classes', 'ok', 'yes')

    Args:
        reference: as for ``load``.
        probe: run a few steps to estimate the time, for some seconds.
        fields: as for ``load``.

    Raises:
        InputError: if it cannot be loaded; the message says why, and what to do.
    """
    start = time.perf_counter()
    model = load(reference, **fields)
    seconds: dict[str, float] = {}
    loading = time.perf_counter() - start
    spec = model.spec
    normalization, reason = normalization_report(model)
    layers: tuple[InspectedLayer, ...] = ()
    problem = ""
    try:
        layers = _layers(model)
    except CaptureError as error:
        problem = str(error)
    settings = settings_for(model)
    memory = None
    if probe and not problem:
        with warnings.catch_warnings(), showing("timing a few steps"):
            warnings.simplefilter("ignore", MixmixWarning)  # images of a few iterations are poor
            seconds, memory = _estimates(model, settings)
            seconds = {"load": loading, **seconds}
    return Inspection(
        spec=spec,
        task=_task(spec),
        num_parameters=sum(p.numel() for p in model.module.parameters()),
        macs=count_macs(model.module, spec.input_shape),
        num_batch_norms=len(model.batch_norms),
        normalization=normalization,
        normalization_reason=reason,
        layers=layers,
        problem=problem,
        images=_images(model, settings),
        seconds=seconds,
        memory_gib=memory,
    )


def _task(spec: ModelSpec) -> str:
    if not spec.num_classes:
        return "no classes: a backbone"
    label_set = f" ({spec.label_set})" if spec.label_set else ""
    several = ", several per image" if spec.multi_label else ""
    return f"{spec.num_classes} classes{label_set}{several}"


def _images(model: Model, settings: SynthesisSettings) -> str:
    terms = (
        "statistics of BatchNorm" if model.batch_norms else "its outputs, as it has no BatchNorm"
    )
    return (
        f"{settings.num_images} images in {settings.iterations} iterations each, matched to {terms}"
    )


def _layers(model: Model) -> tuple[InspectedLayer, ...]:
    module, spec = model.module, model.spec
    example = normalize(natural_images(spec, 4), spec)
    quantize = Quantize()
    graph_module, folded = quantize.captured(module, example)
    input_bits = quantize.insert(graph_module)
    records = record_layers(module, graph_module, folded, input_bits, {}, {})
    macs = _macs(module, spec)
    channels, reasons = _channels(module, example)
    own = dict(module.named_modules())
    found = []
    for record in records:
        layer = own.get(record.name)
        is_weighted = isinstance(layer, nn.Conv2d | nn.Linear)
        why = reasons.get(record.name, "other layers fix their number")
        answer = {"quantized": "yes", "folded": f"folded {record.reason}"}
        found.append(
            InspectedLayer(
                record.name,
                record.kind,
                record.num_parameters,
                macs.get(record.name, 0),
                answer.get(record.action, f"no: {record.reason}"),
                is_weighted,
                "-" if not is_weighted else "yes" if record.name in channels else f"no: {why}",
            )
        )
    return tuple(found)


def _macs(module: nn.Module, spec: ModelSpec) -> dict[str, int]:
    try:
        return count_layer_macs(module, spec.input_shape)
    except Exception as error:  # of the network's own code
        raise_if_out_of_memory(error)
        return {}


def _channels(module: nn.Module, example: torch.Tensor) -> tuple[set[str], dict[str, str]]:
    """Layers whose output channels can be pruned, and reasons of others."""
    try:
        graph_module: fx.GraphModule = capture(module, example)
        groups, reasons = find_groups(graph_module, example)
    except InputError as error:
        return set(), dict.fromkeys(dict(module.named_modules()), first_line(error))
    return {p.layer for group in groups for p in group.parts if not p.is_input}, reasons


def _estimates(model: Model, settings: SynthesisSettings) -> tuple[dict[str, float], float]:
    """Seconds by step, and GiB of the process, from a few steps that are timed."""
    zoo = Zoo([model])
    before = peak_memory_bytes()
    finished = 4 * settings.num_images * math.prod(model.spec.input_shape)
    making = int(_PART_OF_PLAN * plan(zoo, settings).peak_bytes) + finished
    macs = max(1, count_macs(model.module, model.spec.input_shape))
    affordable = int(_PROBE_MACS / (_MACS_OF_STEP * macs * _PROBE_ITERATIONS))
    count = max(2, min(_MOST_PROBE_IMAGES, settings.batch_size, affordable))
    small = replace(settings, num_images=count, batch_size=count)
    times = []
    for iterations in (len(settings.scales), len(settings.scales) + _PROBE_ITERATIONS):
        start = time.perf_counter()
        synthesize(zoo, replace(small, iterations=iterations))
        times.append(time.perf_counter() - start)
    per_image = max(1e-6, times[1] - times[0]) / _PROBE_ITERATIONS / count
    images = times[0] + per_image * settings.num_images * settings.iterations
    probe = natural_images(model.spec, max(2, min(16, count)))
    times = []
    for some in (probe[: len(probe) // 2], probe):
        start = time.perf_counter()
        compress(model, some, "W8A8")
        times.append(time.perf_counter() - start)
    each = max(0.0, times[1] - times[0]) / (len(probe) - len(probe) // 2)
    fixed = max(0.0, times[1] - each * len(probe))
    start = time.perf_counter()
    with suppress(ExportError):  # which is reported when a file is written
        float_onnx_bytes(model.module, model.spec.input_shape, name=model.spec.name)
    exporting = time.perf_counter() - start
    seconds = {
        "images": images,
        "quantize": fixed + each * settings.num_images,
        "export": _FLOAT_EXPORTS * exporting,
    }
    # What was imported and loaded is needed, too, and the probe has needed the least.
    memory = max((before or 0) + making, peak_memory_bytes() or 0)
    return seconds, memory / 2**30


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)
