"""Accuracy of models and exported files, and their agreement with a reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixmix._display import html_table, percent, summary
from mixmix.compress.method import Compressed
from mixmix.data.image_set import ImageSet
from mixmix.data.labels import (
    checked_label_sets,
    checked_labels,
    dataset_index,
    warn_if_labels_are_chance,
)
from mixmix.data.pixels import to_unit_range
from mixmix.errors import DataError, InputError
from mixmix.evaluate.class_accuracy import ClassAccuracy, class_accuracies, num_in_top
from mixmix.evaluate.intervals import percent_interval
from mixmix.evaluate.predictor import (
    Evaluated,
    Predictor,
    check_comparable,
    is_file,
    shared_spec,
)
from mixmix.export import Artifact
from mixmix.models.member import label_space
from mixmix.models.spec import ModelSpec
from mixmix.runtime.progress import Progress, showing

__all__ = ["Evaluated", "Evaluation", "Predictor", "check_comparable", "evaluate"]

_TOP = 5

Data = Dataset[Any] | DataLoader[Any] | tuple[Tensor, Tensor]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Accuracy on labeled images, in percent.

    With ``multi_label``, the predicted classes of an image are those of probability 0.5 and more.

    Attributes:
        top1: images whose largest logit is that of their label; with ``multi_label``, images whose
            predicted classes are exactly theirs (subset accuracy).
        top1_interval: 95% Wilson interval of the accuracy.
        num_images: number of images.
        agreement: images with the same classes from the reference, or None without one.
        agreement_interval: 95% Wilson interval of the agreement, or None.
        predictions: predicted classes (num_images,) int64, in the order of the data; with
            ``multi_label``, whether each class is predicted, (num_images, K) bool.
        label_accuracy: with ``multi_label``, labels that are predicted as they are, of all images
            and classes; None otherwise.
        top5: images whose label is among the five classes of the largest logits; None with
            ``multi_label``, and for networks of five classes or fewer.
        top5_interval: 95% Wilson interval, or None.
        class_accuracy: of each class that has images.
    """

    top1: float
    top1_interval: tuple[float, float]
    num_images: int
    agreement: float | None
    agreement_interval: tuple[float, float] | None
    predictions: Tensor
    label_accuracy: float | None = None
    top5: float | None = None
    top5_interval: tuple[float, float] | None = None
    class_accuracy: tuple[ClassAccuracy, ...] = ()

    def _facts(self) -> dict[str, Any]:
        interval = self.agreement_interval
        of_labels = self.label_accuracy
        name = "top1" if of_labels is None else "all labels right"
        return {
            name: percent(self.top1, self.top1_interval),
            "top5": None if self.top5 is None else percent(self.top5, self.top5_interval),
            "label_accuracy": None if of_labels is None else percent(of_labels),
            "agreement": None if self.agreement is None else percent(self.agreement, interval),
            "images": self.num_images,
        }

    def __repr__(self) -> str:
        return summary("Evaluation", self._facts())

    def _repr_html_(self) -> str:
        return html_table([self._facts()], caption="Evaluation, with 95% intervals")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the predictions."""

        def listed(interval: tuple[float, float] | None) -> list[float] | None:
            return None if interval is None else list(interval)

        return {
            "top1": self.top1,
            "top1_interval": listed(self.top1_interval),
            "top5": self.top5,
            "top5_interval": listed(self.top5_interval),
            "num_images": self.num_images,
            "agreement": self.agreement,
            "agreement_interval": listed(self.agreement_interval),
            "class_accuracy": [each.to_dict() for each in self.class_accuracy],
        } | ({} if self.label_accuracy is None else {"label_accuracy": self.label_accuracy})


def evaluate(
    model: Evaluated,
    data: Data,
    *,
    reference: Evaluated | None = None,
    spec: ModelSpec | Mapping[str, Any] | None = None,
    batch_size: int = 100,
    device: str | torch.device = "cpu",
    on_progress: Progress | None = None,
) -> Evaluation:
    """Measure the accuracy of a model on labeled images.

    >>> import mixmix, torch
    >>> images = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> mixmix.evaluate("bundled:resnet", (images, torch.zeros(20, dtype=torch.long))).num_images
    20

    Args:
        model: an ``Artifact`` or the path of an ONNX file, run by ONNX Runtime on the CPU; the path
            of an exported program (``.pt2``), run by PyTorch on the CPU; a ``Compressed``; or
            whatever ``load`` takes, such as ``"bundled:resnet"`` or a ``Model``.
        data: a ``Dataset`` of images (C, H, W) and labels, or a ``DataLoader`` of batches of them;
            or two tensors, images (N, C, H, W) and labels (N,). Images are uint8, or floats in
            [0, 1], and are resized to the input of the model. Labels of an ``ImageSet``, and of
            data sets that name their ``classes``, are matched to those of the model by name. With
            ``multi_label``, labels are (N, K) of 0 and 1, in the order of the model's classes.
        reference: a model to compare predictions with, of any of these types.
        spec: of a file that mixmix did not write, or of a module; or a dict of the fields of the
            spec that complete or override those of the model and the reference.
        batch_size: images per batch; a ``DataLoader`` has its own.
        device: of a ``Compressed``; a ``Model`` keeps its own.
        on_progress: called with (current step, fraction done); None shows progress on standard
            error.

    Raises:
        InputError: if a model cannot be loaded or does not fit the images.
        DataError: if the data is empty or malformed, or a label is out of range.

    Examples:
        >>> images, labels = mixmix.load_evaluation_pack().tensors
        >>> result = mixmix.evaluate("bundled:vgg", (images[:100], labels[:100]))
        >>> result.num_images, result.predictions.shape
        (100, torch.Size([100]))
    """
    spec = shared_spec([model] if reference is None else [model, reference], spec)
    predict = Predictor(model, spec, device)
    compare = None if reference is None else Predictor(reference, spec, device)
    check_comparable(predict, compare, batch_size)
    predictions, labels, others, num_top = [], [], [], 0
    space = label_space(predict.spec)
    several = predict.spec.multi_label
    has_top = not several and predict.spec.num_classes > _TOP
    if isinstance(data, ImageSet):
        if several:
            raise InputError(
                f"{predict.spec.name} has multi_label, and an ImageSet has one label per image; "
                "pass (images, labels) with labels (N, K) of 0 and 1"
            )
        data = data.with_classes(space)
    indices = None if isinstance(data, ImageSet) or several else dataset_index(data, space)
    batches, num_batches = _batches(data, batch_size)
    with showing("evaluating", on_progress) as advance:
        for index, (raw, targets) in enumerate(batches):
            images = to_unit_range(raw)
            _check_batch(images, predict.spec)
            if several:
                labels.append(checked_label_sets(targets, len(images), space))
            else:
                labels.append(checked_labels(targets, len(images), space, indices))
            logits = predict.logits(images)
            predictions.append(predict.classes(logits))
            if has_top:
                num_top += num_in_top(logits, labels[-1], _TOP)
            if compare is not None:
                others.append(compare(images))
            advance("evaluate", (index + 1) / num_batches if num_batches else 0.0)
    if not predictions:
        raise DataError("no images to evaluate on; the data set is empty")
    predicted, n = torch.cat(predictions), sum(map(len, predictions))
    wanted = torch.cat(labels)
    correct = int(are_equal(predicted, wanted).sum())
    is_float = not isinstance(model, Artifact | Compressed) and not is_file(model)
    if is_float and not several:
        what = f"images are predicted as labeled by {predict.spec.name}"
        warn_if_labels_are_chance(correct, n, predict.spec.num_classes, what)
    same = int(are_equal(predicted, torch.cat(others)).sum()) if others else None
    return Evaluation(
        top1=100 * correct / n,
        top1_interval=percent_interval(correct, n),
        num_images=n,
        agreement=None if same is None else 100 * same / n,
        agreement_interval=None if same is None else percent_interval(same, n),
        predictions=predicted,
        label_accuracy=100 * float((predicted == wanted).double().mean()) if several else None,
        top5=100 * num_top / n if has_top else None,
        top5_interval=percent_interval(num_top, n) if has_top else None,
        class_accuracy=class_accuracies(predicted, wanted, predict.spec),
    )


def are_equal(classes: Tensor, others: Tensor) -> Tensor:
    """Whether the classes (N,) or (N, K) of each image are the same, (N,)."""
    same = classes == others
    return same.flatten(1).all(1) if same.ndim > 1 else same


def _batches(data: Data, batch_size: int) -> tuple[Iterator[tuple[Tensor, Tensor]], int]:
    """Batches of images and labels, and their number, or 0 if it is unknown."""
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


def _check_batch(images: Tensor, spec: ModelSpec) -> None:
    """Raise a ``DataError`` unless a batch fits the model."""
    if images.ndim != 4 or images.shape[1] != spec.input_shape[0]:
        raise DataError(
            f"{spec.name} takes images of {spec.input_shape[0]} channels, (N, "
            f"{spec.input_shape[0]}, H, W); got {tuple(images.shape)}"
        )
