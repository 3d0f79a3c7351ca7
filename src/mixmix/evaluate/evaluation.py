"""Accuracy of what was exported, with intervals, and its agreement with another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mixmix._display import html_table, percent, summary
from mixmix.compress.method import Compressed, Progress
from mixmix.data.pixels import to_unit_range
from mixmix.errors import DataError, InputError
from mixmix.evaluate.intervals import wilson_interval
from mixmix.export import Artifact
from mixmix.models.loading import Reference, load
from mixmix.models.model import Model, normalize
from mixmix.models.spec import ModelSpec

if TYPE_CHECKING:
    from mixmix.runtimes.program import ProgramSession
    from mixmix.runtimes.session import OnnxSession

__all__ = ["Evaluated", "Evaluation", "Predictor", "evaluate"]

Evaluated = Artifact | Compressed | Reference
# Files that run as they are; and those that describe a network.
_RUNNABLE, _SPECS = (".onnx", ".pt2"), (".toml", ".json")

Data = Dataset[Any] | DataLoader[Any] | tuple[Tensor, Tensor]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Accuracy on labeled images, in percent.

    Attributes:
        top1: share of images whose largest logit is that of their label.
        top1_interval: its 95% Wilson interval.
        num_images: how many images were seen.
        agreement: share of images on which the reference predicts the same class, or None
            without a reference.
        agreement_interval: its 95% Wilson interval, or None.
        predictions: class of every image (num_images,) int64, in the order of the data.
    """

    top1: float
    top1_interval: tuple[float, float]
    num_images: int
    agreement: float | None
    agreement_interval: tuple[float, float] | None
    predictions: Tensor

    def _facts(self) -> dict[str, Any]:
        interval = self.agreement_interval
        return {
            "top1": percent(self.top1, self.top1_interval),
            "agreement": None if self.agreement is None else percent(self.agreement, interval),
            "images": self.num_images,
        }

    def __repr__(self) -> str:
        return summary("Evaluation", self._facts())

    def _repr_html_(self) -> str:
        return html_table([self._facts()], caption="Evaluation, with 95% intervals")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the predictions."""
        interval = self.agreement_interval
        return {
            "top1": self.top1,
            "top1_interval": list(self.top1_interval),
            "num_images": self.num_images,
            "agreement": self.agreement,
            "agreement_interval": None if interval is None else list(interval),
        }


def evaluate(
    model: Evaluated,
    data: Data,
    *,
    reference: Evaluated | None = None,
    spec: ModelSpec | None = None,
    batch_size: int = 100,
    device: str | torch.device = "cpu",
    on_progress: Progress = lambda what, share: None,
) -> Evaluation:
    """Measure a model on labeled images.

    Args:
        model: an ``Artifact`` or the path of an ONNX file, which run in ONNX Runtime on the CPU,
            or of an exported program (``.pt2``), which PyTorch runs there; a ``Compressed``; or
            whatever ``load`` takes, such as ``"bundled:resnet"`` or a ``Model``.
        data: pairs of an image (C, H, W) in [0, 1] and a label, as a ``Dataset`` or in batches
            from a ``DataLoader``; or two tensors, images (N, C, H, W) as uint8 or as floats in
            [0, 1] and labels (N,). Images of another size are resized as the spec says.
        reference: a model of any of these kinds to compare predictions with, such as the
            original.
        spec: of a file that mixmix did not write, or of a module.
        batch_size: images at once; a ``DataLoader`` has its own.
        device: where a ``Compressed`` runs; a ``Model`` stays where it is.
        on_progress: called with (what is being done, share done).

    Raises:
        InputError: if a model cannot be loaded or does not fit the images.
        DataError: if the data is empty, not as described above, or a label is out of range.
    """
    predict = Predictor(model, spec, device)
    compare = None if reference is None else Predictor(reference, spec, device)
    if compare is not None and compare.spec.num_classes != predict.spec.num_classes:
        raise InputError(
            f"{predict.spec.name} has {predict.spec.num_classes} classes, the reference "
            f"{compare.spec.name} has {compare.spec.num_classes}; compare models of one label set"
        )
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    predictions, labels, others = [], [], []
    batches, num_batches = _batches(data, batch_size)
    for index, (raw, targets) in enumerate(batches):
        images = to_unit_range(raw)
        _check_batch(images, targets, predict.spec)
        predictions.append(predict(images))
        labels.append(targets.long())
        if compare is not None:
            others.append(compare(images))
        on_progress("evaluate", (index + 1) / num_batches if num_batches else 0.0)
    if not predictions:
        raise DataError("there are no images to evaluate on; the data set is empty")
    predicted = torch.cat(predictions)
    top1, top1_interval = _share(predicted == torch.cat(labels))
    agreement, agreement_interval = None, None
    if compare is not None:
        agreement, agreement_interval = _share(predicted == torch.cat(others))
    return Evaluation(
        top1=top1,
        top1_interval=top1_interval,
        num_images=len(predicted),
        agreement=agreement,
        agreement_interval=agreement_interval,
        predictions=predicted,
    )


def _share(hits: Tensor) -> tuple[float, tuple[float, float]]:
    num_hits, n = int(hits.sum()), len(hits)
    low, high = wilson_interval(num_hits, n)
    return 100 * num_hits / n, (100 * low, 100 * high)


class Predictor:
    """Any kind of model as a function of images (N, C, H, W) in [0, 1] to classes (N,).

    Args:
        model: of any of these kinds.
        spec: of an ONNX file that mixmix did not write, or of a module.
        device: where a ``Compressed`` runs.

    Raises:
        InputError: if it cannot be loaded or has no label head.
    """

    def __init__(
        self,
        model: Evaluated,
        spec: ModelSpec | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self._logits: Callable[[Tensor], Tensor]
        if not isinstance(model, Artifact | Compressed) and not _is_file(model):
            named = (model, spec) if isinstance(model, nn.Module) and spec else model
            model = load(named, device=None if isinstance(model, Model) else device)
        if isinstance(model, Compressed):
            model = Model(model.module, model.spec, device=device)
        if isinstance(model, Model):
            self.spec = model.spec
            self._logits = model
            self._device = model.device
        else:
            assert isinstance(model, Artifact | str | Path)
            self.spec, self._logits = _open(model, spec)
            self._device = torch.device("cpu")
        if self.spec.num_classes < 1:
            raise InputError(f"{self.spec.name} has no label head, so it predicts no classes")

    def __call__(self, images: Tensor) -> Tensor:
        return self.logits(images).argmax(1)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, K) on the CPU, all of them finite."""
        logits = self._logits(images.to(self._device)).cpu()
        expected = (len(images), self.spec.num_classes)
        if tuple(logits.shape) != expected:
            raise InputError(
                f"{self.spec.name} gives logits of shape {tuple(logits.shape)}, expected "
                f"{expected}; check num_classes of the spec"
            )
        if not bool(torch.isfinite(logits).all()):
            raise InputError(
                f"{self.spec.name} gives NaN or infinite logits; its weights or scales are damaged"
            )
        return logits


def _is_file(model: object) -> TypeGuard[str | Path]:
    """Whether it is the path of a file that runs as it is, and no reference to a network."""
    if not isinstance(model, str | Path):
        return False
    path = Path(model)
    return path.suffix in _RUNNABLE or (path.is_file() and path.suffix not in _SPECS)


def _open(
    model: Artifact | str | Path, spec: ModelSpec | None
) -> tuple[ModelSpec, Callable[[Tensor], Tensor]]:
    path = model.path if isinstance(model, Artifact) else Path(model)
    if path.suffix not in _RUNNABLE and path.is_file():
        raise InputError(
            f"cannot evaluate {path}; expected an ONNX file that ends in .onnx, or an exported "
            "program that ends in .pt2"
        )
    # Each takes long to import, and only its own files need it.
    session: OnnxSession | ProgramSession
    if path.suffix == ".pt2":
        from mixmix.runtimes.program import ProgramSession

        session = ProgramSession(path)
    else:
        from mixmix.runtimes.session import OnnxSession

        session = OnnxSession(path)
    own = ModelSpec.from_metadata(session.metadata, session.name)
    found = model.spec if isinstance(model, Artifact) else own or spec
    if found is None:
        raise InputError(
            f"{path} was not written by mixmix and does not say how to normalize images; give "
            "spec=ModelSpec(...) with its input_shape, mean, std and num_classes"
        )
    return found, lambda images: session.run(normalize(images, found))


def _batches(data: Data, batch_size: int) -> tuple[Iterator[tuple[Tensor, Tensor]], int]:
    """Batches of images and labels, and how many; 0 where that is not known."""
    if isinstance(data, tuple):
        if len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
            raise DataError("a tuple of data must be two tensors: images and labels")
        images, labels = data
        if len(images) != len(labels):
            raise DataError(f"got {len(images)} images and {len(labels)} labels")
        pairs = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        return iter(() if len(images) == 0 else pairs), -(-len(images) // batch_size)
    if not isinstance(data, (Dataset, DataLoader)):
        raise DataError(
            f"cannot evaluate on a {type(data).__name__}; expected a Dataset, a DataLoader or two "
            "tensors (images, labels)"
        )
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=batch_size)
    try:
        num_batches = len(loader)
    except TypeError:  # an iterable data set
        num_batches = 0
    return _unpacked(loader), num_batches


def _unpacked(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in loader:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError("each item of the data must be a pair (image, label)")
        images, labels = batch
        if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
            raise DataError(
                f"each item of the data must be an image tensor and a label, got "
                f"{type(images).__name__} and {type(labels).__name__}"
            )
        yield images, labels


def _check_batch(images: Tensor, labels: Tensor, spec: ModelSpec) -> None:
    """Raise unless the batch fits the model."""
    if images.ndim != 4 or images.shape[1] != spec.input_shape[0]:
        raise DataError(
            f"{spec.name} takes images of {spec.input_shape[0]} channels, (N, "
            f"{spec.input_shape[0]}, H, W); got {tuple(images.shape)}"
        )
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"labels must be class numbers (N,), got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= spec.num_classes:
        raise DataError(
            f"label {low if low < 0 else high} is out of range: {spec.name} has "
            f"{spec.num_classes} classes, 0 to {spec.num_classes - 1}"
        )
