"""Two models side by side: accuracy, agreement, size, latency, and their layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from mixmix._display import html_table, percent, summary
from mixmix.compress.method import Compressed, Progress
from mixmix.errors import ExportError, InputError
from mixmix.evaluate.evaluation import Data, Evaluation, are_equal, evaluate
from mixmix.evaluate.intervals import percent_interval
from mixmix.evaluate.layer_errors import LayerErrors, layer_errors
from mixmix.evaluate.predictor import (
    Evaluated,
    Predictor,
    check_comparable,
    is_file,
    shared_spec,
)
from mixmix.export import Artifact
from mixmix.export.verify import probe_images
from mixmix.graph.costs import count_bytes
from mixmix.models.loading import load
from mixmix.models.model import Model
from mixmix.models.spec import ModelSpec
from mixmix.runtimes.float_onnx import float_onnx_bytes
from mixmix.runtimes.latency import compare_latency_ms, size_bytes

__all__ = ["Compared", "Comparison", "compare", "latencies_of"]

_BATCH = 50
_NUM_IMAGES_OF_LAYERS = 32


@dataclass(frozen=True)
class Compared:
    """One of two models.

    Attributes:
        name: of the file, or of the network.
        size_bytes: of the file, or of the weights of a network.
        latency_ms: of an image in ONNX Runtime on one thread, or None.
        evaluation: on labeled images, or None without labels.
    """

    name: str
    size_bytes: int
    latency_ms: float | None
    evaluation: Evaluation | None


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two models.

    Attributes:
        model: the first.
        reference: the second, usually the original of the first.
        agreement: images with the same classes from both, in percent.
        agreement_interval: its 95% Wilson interval.
        num_images: number of images.
        on_noise: whether the images are smooth noise, as there were no others.
        layers: errors of the layers, or None.
        no_layers: why there are none, or empty.
    """

    model: Compared
    reference: Compared
    agreement: float
    agreement_interval: tuple[float, float]
    num_images: int
    on_noise: bool
    layers: LayerErrors | None
    no_layers: str = ""

    def __repr__(self) -> str:
        agreement = percent(self.agreement, self.agreement_interval)
        facts = {"agreement": agreement, "images": self.num_images}
        return summary("Comparison", {"models": (self.model.name, self.reference.name)} | facts)

    def _repr_html_(self) -> str:
        return html_table(self.rows, caption=repr(self))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Measures of both models, as rows of a table."""
        one, other = self.model, self.reference
        sizes = (one.size_bytes, other.size_bytes)
        rows = [_row("size", (f"{size:,} bytes" for size in sizes), sizes[0] / max(1, sizes[1]))]
        if one.latency_ms and other.latency_ms:
            texts = (f"{ms:.3g} ms" for ms in (one.latency_ms, other.latency_ms))
            rows.append(_row("latency of one image", texts, one.latency_ms / other.latency_ms))
        if one.evaluation and other.evaluation:
            pair = (one.evaluation, other.evaluation)
            rows.append(_row("top-1 accuracy", (percent(e.top1, e.top1_interval) for e in pair)))
            if all(each.top5 is not None for each in pair):
                texts = (percent(each.top5 or 0.0, each.top5_interval) for each in pair)
                rows.append(_row("top-5 accuracy", texts))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""

        def compared(one: Compared) -> dict[str, Any]:
            found = None if one.evaluation is None else one.evaluation.to_dict()
            facts = {"name": one.name, "size_bytes": one.size_bytes, "latency_ms": one.latency_ms}
            return facts | {"evaluation": found}

        return {
            "model": compared(self.model),
            "reference": compared(self.reference),
            "agreement": self.agreement,
            "agreement_interval": list(self.agreement_interval),
            "num_images": self.num_images,
            "on_noise": self.on_noise,
            "layers": None if self.layers is None else self.layers.to_dict(),
            "no_layers": self.no_layers,
        }


def compare(
    model: Evaluated,
    reference: Evaluated,
    data: Data | Tensor | None = None,
    *,
    spec: ModelSpec | Mapping[str, Any] | None = None,
    on_progress: Progress = lambda what, fraction: None,
) -> Comparison:
    """Compare a model with its original, or with any network of the same classes.

    >>> import mixmix, torch
    >>> images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> compare("bundled:resnet", "bundled:resnet", images).agreement
    100.0

    Args:
        model: as for ``evaluate``.
        reference: likewise.
        data: labeled images as for ``evaluate``, in a fixed order; images (N, C, H, W) in [0, 1]
            without labels; or None for smooth noise.
        spec: as for ``evaluate``.
        on_progress: called with (current step, fraction done).

    Raises:
        InputError: if a model cannot be loaded, or they have other numbers of classes.
    """
    spec = shared_spec((model, reference), spec)
    models = [_loaded(each, spec) for each in (model, reference)]
    predictors = [Predictor(each, spec) for each in models]
    check_comparable(predictors[0], predictors[1], 1)
    own = predictors[0].spec
    images = probe_images(own) if data is None else data
    evaluations: list[Evaluation | None] = [None, None]
    if isinstance(images, Tensor):
        predictions = [_classes(each, images, on_progress) for each in predictors]
        few = images
    else:
        evaluations = [evaluate(e, images, spec=spec, on_progress=on_progress) for e in models]
        predictions = [each.predictions for each in evaluations if each is not None]
        few = _first_images(images)
    same = are_equal(*predictions)
    hits, n = int(same.sum()), len(same)
    layers, why = _layers(models, few[:_NUM_IMAGES_OF_LAYERS], spec, on_progress)
    latencies = latencies_of(models, own.input_shape)
    one, other = (
        Compared(_name(each), _size(each), latency, evaluation)
        for each, latency, evaluation in zip(models, latencies, evaluations, strict=True)
    )
    interval = percent_interval(hits, n)
    return Comparison(one, other, 100 * hits / n, interval, n, data is None, layers, why)


def _loaded(model: Evaluated, spec: ModelSpec | Mapping[str, Any] | None) -> Evaluated:
    if isinstance(model, Artifact | Compressed) or is_file(model):
        return model
    return load(model, **(spec if isinstance(spec, Mapping) else {}))


def _classes(predict: Predictor, images: Tensor, on_progress: Progress) -> Tensor:
    on_progress("run", 0.0)
    return torch.cat([predict(batch) for batch in images.split(_BATCH)])


def _first_images(data: Any) -> Tensor:
    """A few images of labeled data, of all parts of it."""
    from mixmix.data.pixels import to_unit_range

    if isinstance(data, tuple):
        step = max(1, len(data[0]) // _NUM_IMAGES_OF_LAYERS)
        return to_unit_range(data[0][::step])
    dataset = getattr(data, "dataset", data)
    step = max(1, len(dataset) // _NUM_IMAGES_OF_LAYERS)
    indices = range(0, len(dataset), step)[:_NUM_IMAGES_OF_LAYERS]
    return torch.stack([to_unit_range(dataset[index][0]) for index in indices])


def _layers(
    models: list[Evaluated],
    images: Tensor,
    spec: ModelSpec | Mapping[str, Any] | None,
    on_progress: Progress,
) -> tuple[LayerErrors | None, str]:
    try:
        return layer_errors(models[0], models[1], images, spec=spec, on_progress=on_progress), ""
    except InputError as error:  # networks of other architectures have no layers in common
        return None, str(error)


def _name(model: Evaluated) -> str:
    if isinstance(model, Artifact):
        return str(model.path)
    if isinstance(model, str | Path):
        return str(model)
    spec = getattr(model, "spec", None)
    return spec.name if isinstance(spec, ModelSpec) else type(model).__name__


def _module(model: Evaluated) -> torch.nn.Module:
    assert isinstance(model, Compressed | Model)
    return model.module


def _path(model: Evaluated) -> Path | None:
    if isinstance(model, Artifact):
        return model.path
    return Path(model) if is_file(model) else None


def _size(model: Evaluated) -> int:
    path = _path(model)
    if path is not None:
        return size_bytes(path)
    return count_bytes(_module(model))


def latencies_of(
    models: Sequence[Evaluated], input_shape: tuple[int, int, int]
) -> tuple[float | None, float | None]:
    """Milliseconds of two models in ONNX Runtime, in alternation; None if one cannot run there.

    An image is run on one thread, and the fastest runs count, since other load on the machine only
    slows runs down. Networks run in floats.
    """
    with TemporaryDirectory() as folder:
        paths = []
        try:
            for number, model in enumerate(models):
                path = _path(model)
                if path is None:
                    path = Path(folder) / f"{number}.onnx"
                    module = _module(model)
                    path.write_bytes(float_onnx_bytes(module, input_shape, name=_name(model)))
                paths.append(path)
            if any(path.suffix != ".onnx" for path in paths):
                return None, None
            found = compare_latency_ms(
                paths, repeats=8, rounds=3, quantile=0.0, input_shape=input_shape
            )
        except (ExportError, InputError):
            return None, None
        return found[str(paths[0])], found[str(paths[1])]


def _row(measure: str, texts: Iterable[str], ratio: float | None = None) -> dict[str, Any]:
    one, other = texts
    text = "" if ratio is None else f"{ratio:.2f}"
    return {"measure": measure, "A": one, "B": other, "A : B": text}
