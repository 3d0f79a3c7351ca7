"""Labels of images: in the classes of a network, and as it predicts them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mixmix.errors import DataError, InputError, warn
from mixmix.models.classes import ClassMatch, LabelSpace, list_some, match_classes

__all__ = [
    "checked_label_sets",
    "checked_labels",
    "dataset_index",
    "index_in",
    "label_agreement",
    "map_labels",
    "map_soft_labels",
    "warn_if_labels_are_chance",
]

# Labels of fewer images than that are not judged.
_FEWEST_TO_JUDGE = 16


def index_in(target: LabelSpace, own: LabelSpace, labels: Tensor | None = None) -> Tensor | None:
    """The index in ``target`` of each of ``own``'s classes, -1 for none; None if all are the same.

    Args:
        target: the wanted classes.
        own: classes of the labels.
        labels: (N,) of which every one must have a class; None if all classes must.

    Raises:
        InputError: if classes do not correspond, or one of the labels has none.
    """
    match = match_classes(own, target)
    if match.guessed:
        warn(
            f"the classes of {own.owner} are taken for those of {target.owner} by index, since "
            "only one of them has names; set the classes, or the same label_set, of both"
        )
    if not match.indices:
        raise InputError(
            f"labels of {own.owner} are not those of {target.owner}: {match.why}; use images of "
            "its own classes"
        )
    indices = _as_tensor(match)
    used = range(own.num_classes) if labels is None else labels.unique().tolist()
    missing = [own.names[label] for label in used if indices[label] < 0]
    if missing:
        raise InputError(
            f"{target.owner} has no classes {list_some(missing)}, which labels of {own.owner} "
            "name; use images of its own classes, or correct the names"
        )
    return _unless_same(indices, target)


def map_labels(labels: Tensor, indices: Tensor | None) -> Tensor:
    """Labels (N,) in other classes; see ``index_in``."""
    return labels if indices is None else indices[labels.cpu()].to(labels)


def map_soft_labels(soft_labels: Tensor, indices: Tensor | None, num_classes: int) -> Tensor:
    """Soft labels (N, K) in other classes; those that remain add up to 1."""
    if indices is None:
        return soft_labels
    known = (indices >= 0).nonzero().flatten()
    mapped = soft_labels.new_zeros(len(soft_labels), num_classes)
    mapped[:, indices[known]] = soft_labels[:, known]
    lost = len(known) < soft_labels.shape[1]
    return mapped / mapped.sum(1, keepdim=True).clamp_min(1e-12) if lost else mapped


def dataset_index(source: Any, target: LabelSpace) -> Tensor | None:
    """The index in ``target`` of each class that a data set names; None: labels are indices.

    Raises:
        DataError: if some names are those of other classes.
    """
    names = _class_names_of(source)
    if not names or not target.names:
        return None
    own = LabelSpace("the data", len(names), names)
    match = match_classes(own, target)
    if match.indices and any(index is not None for index in match.indices):
        return _unless_same(_as_tensor(match), target)
    if len(names) != target.num_classes:
        raise DataError(
            f"the data has {len(names)} classes ({list_some(names)}), {target.owner} has "
            f"{target.num_classes} others ({list_some(target.names)}); use data of its own classes"
        )
    warn(
        f"the classes of the data ({list_some(names)}) are taken for those of {target.owner} "
        f"({list_some(target.names)}) by index, since no name is the same"
    )
    return None


def _as_tensor(match: ClassMatch) -> Tensor:
    """Its indices, -1 for none."""
    return torch.tensor([-1 if index is None else index for index in match.indices])


def _unless_same(indices: Tensor, target: LabelSpace) -> Tensor | None:
    """The indices; None if every class is itself."""
    return None if indices.tolist() == list(range(target.num_classes)) else indices


def checked_labels(
    labels: Tensor, count: int, target: LabelSpace, indices: Tensor | None = None
) -> Tensor:
    """Labels (N,) int64 on the CPU that are classes of a network.

    Args:
        labels: of the caller.
        count: N, the number of images.
        target: classes of the network.
        indices: from ``dataset_index``.

    Raises:
        DataError: if they have another form, or one is out of range.
    """
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) != count:
        raise DataError(
            f"labels must be class indices ({count},), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    labels = labels.long().cpu()
    num_classes = target.num_classes if indices is None else len(indices)
    low, high = (int(labels.min()), int(labels.max())) if count else (0, 0)
    if num_classes and not 0 <= low <= high < num_classes:
        raise DataError(
            f"label {low if low < 0 else high} is out of range: {target.owner} has {num_classes} "
            f"classes, 0 to {num_classes - 1}"
        )
    mapped = map_labels(labels, indices)
    if bool((mapped < 0).any()):
        missing = labels[mapped < 0].unique().tolist()
        raise DataError(
            f"{target.owner} does not have the classes that the data calls "
            f"{list_some(list(map(str, missing)))}; use data of its own classes"
        )
    return mapped


def checked_label_sets(labels: Tensor, count: int, target: LabelSpace) -> Tensor:
    """Labels (N, K) of 0 and 1 as booleans on the CPU, for networks with ``multi_label``.

    Raises:
        DataError: if they have another form.
    """
    expected = (count, target.num_classes)
    if tuple(labels.shape) != expected or not bool(((labels == 0) | (labels == 1)).all()):
        raise DataError(
            f"labels of {target.owner}, which has multi_label, must be 0 or 1 for each class "
            f"{expected}, got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    return labels.bool().cpu()


def label_agreement(soft_labels: Tensor, labels: Tensor) -> float | None:
    """Fraction of images whose top soft label (N, K) is their label (N,); None if K = 0."""
    if not soft_labels.numel():
        return None
    return float((soft_labels.argmax(1) == labels).float().mean())


def warn_if_labels_are_chance(hits: int, total: int, num_classes: int, what: str) -> None:
    """Warn if labels are predicted as rarely as by chance.

    That is, within two standard deviations of 1 / K, of at least 16 images.

    Args:
        hits: images that are predicted as labeled.
        total: number of images.
        num_classes: K.
        what: a description of the images and of who predicts.
    """
    if total < _FEWEST_TO_JUDGE or num_classes < 2:
        return
    chance = 1 / num_classes
    if hits > total * chance + 2 * math.sqrt(total * chance * (1 - chance)):
        return
    warn(
        f"only {hits} of {total} {what}, no more than by chance ({100 * chance:.3g}%); check the "
        "order of the classes, mean and std"
    )


def _class_names_of(source: Any) -> tuple[str, ...]:
    """Names of the classes of a data set, where it has them; they are empty otherwise.

    As torchvision's data sets (``classes``) and those of Hugging Face (``features``) have them,
    also inside a ``DataLoader`` or ``Subset``.
    """
    for _ in range(8):  # wrappers
        features = getattr(source, "features", None)
        columns = features if isinstance(features, Mapping) else {}
        column = columns.get("label") or columns.get("labels") or columns.get("fine_label")
        names = getattr(source, "classes", None) or getattr(column, "names", None)
        if isinstance(names, list | tuple) and names:
            # ImageNet has a tuple of synonyms for each class.
            first = [each[0] if isinstance(each, tuple) and each else each for each in names]
            return tuple(map(str, first))
        inner = getattr(source, "dataset", None)
        if inner is None:
            return ()
        source = inner
    return ()
