"""Accuracy for the images of each class."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mixmix.evaluate.intervals import percent_interval
from mixmix.models.spec import ModelSpec

__all__ = ["ClassAccuracy", "class_accuracies", "num_in_top"]


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy for the images of one class, in percent.

    Attributes:
        name: of the class, or its index if it has no name.
        accuracy: images of the class that are predicted as such; with ``multi_label``, images whose
            label for the class is predicted.
        interval: 95% Wilson interval of the accuracy.
        num_images: images of the class; with ``multi_label``, all images.
        taken_for: class that most of the other images of this class are predicted as, or None.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    num_images: int
    taken_for: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"interval": list(self.interval)}


def class_accuracies(
    predicted: Tensor, labels: Tensor, spec: ModelSpec
) -> tuple[ClassAccuracy, ...]:
    """Accuracy by class, of the classes that have images.

    Args:
        predicted: classes (N,), or with ``multi_label`` whether each is predicted (N, K).
        labels: of the same form.
        spec: of the network.
    """
    names = spec.classes or tuple(map(str, range(spec.num_classes)))
    if spec.multi_label:
        hits = (predicted == labels).sum(0).tolist()
        return tuple(
            _accuracy(name, hit, len(labels)) for name, hit in zip(names, hits, strict=True)
        )
    found = []
    for label in labels.unique().tolist():
        own = predicted[labels == label]
        others = own[own != label]
        taken_for = names[int(others.mode().values)] if len(others) else None
        right = int((own == label).sum())
        found.append(_accuracy(names[label], right, len(own), taken_for))
    return tuple(found)


def _accuracy(name: str, hits: int, n: int, taken_for: str | None = None) -> ClassAccuracy:
    return ClassAccuracy(name, 100 * hits / n, percent_interval(hits, n), n, taken_for)


def num_in_top(logits: Tensor, labels: Tensor, k: int) -> int:
    """Images whose label (N,) is among the classes of the ``k`` largest of its logits (N, K).

    Of equal logits, those of the first classes count as larger.
    """
    largest = torch.sort(logits, dim=1, descending=True, stable=True).indices[:, :k]
    return int((largest == labels[:, None]).any(1).sum())
