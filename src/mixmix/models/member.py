"""What each network of a zoo takes part with: labels, BatchNorm statistics, or both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixmix.errors import InputError
from mixmix.models.model import Model
from mixmix.models.spec import ModelSpec

__all__ = ["Member", "label_map", "members_of", "places_by_name"]


@dataclass(frozen=True)
class Member:
    """A network of a zoo.

    Attributes:
        teacher: the network.
        weight: its chance of being drawn at a step, relative to that of the others; where all
            networks take part in every step, what its losses count.
        labels: for each class of the zoo, the index of this network's logit, (K,); None if its
            logits say nothing of these classes, so that it takes part by BatchNorm alone.
        why: why that is so, or empty.
    """

    teacher: Model
    weight: float = 1.0
    labels: tuple[int, ...] | None = None
    why: str = ""

    @property
    def role(self) -> str:
        """In words, for people and manifests."""
        parts = ["labels"] * (self.labels is not None)
        parts += ["BatchNorm statistics"] * bool(self.teacher.batch_norms)
        text = " and ".join(parts) or "nothing"
        return f"{text} alone ({self.why})" if self.why else text

    def logits_of_zoo(self, logits: Tensor) -> Tensor:
        """This network's logits (N, own K) in the classes and order of the zoo (N, K)."""
        assert self.labels is not None
        if self.labels == tuple(range(logits.shape[1])):
            return logits
        return logits[:, torch.tensor(self.labels, device=logits.device)]


def members_of(teachers: Sequence[Model], weights: Sequence[float] | None) -> tuple[Member, ...]:
    """Find what each network of a zoo can take part with.

    The classes of the zoo are those of its first network with a label head.

    Args:
        teachers: the networks, in order.
        weights: one for each, > 0; None counts all the same.

    Raises:
        InputError: if a network could not take part with anything.
    """
    counts = (1.0,) * len(teachers) if weights is None else tuple(weights)
    first = next((each.spec for each in teachers if each.has_label_head), None)
    members = []
    for teacher, weight in zip(teachers, counts, strict=True):
        if first is None or not teacher.has_label_head:
            members.append(Member(teacher, weight))
            continue
        labels, why = label_map(first, teacher.spec)
        if labels is None and not teacher.batch_norms:
            raise InputError(
                f"{teacher.spec.name} can take no part in a zoo with {first.name}: it has no "
                f"BatchNorm, and {why}; give its label_map, or leave it out"
            )
        members.append(Member(teacher, weight, labels, why))
    return tuple(members)


def label_map(zoo: ModelSpec, own: ModelSpec) -> tuple[tuple[int, ...] | None, str]:
    """Where a network has the classes of a zoo.

    In this order: what ``own.label_map`` says; names of classes, if both have them; the same index,
    if nothing that is known of both differs.

    Args:
        zoo: the network whose classes are the zoo's.
        own: the network to be mapped.

    Returns:
        The index of its logit for each class of the zoo, and an empty text; or None and why.

    Raises:
        InputError: if ``own.label_map`` does not fit, or two networks of one label set have
            different numbers of classes.
    """
    if own.label_map:
        return _given(zoo, own), ""
    same = tuple(range(zoo.num_classes))
    if zoo.classes and own.classes:
        if [_key(name) for name in zoo.classes] == [_key(name) for name in own.classes]:
            return same, ""
        found = places_by_name(zoo.classes, own.classes)
        if found is not None:
            return found, ""
        known = _unique_places(own.classes)
        if known is not None and zoo.label_set != own.label_set:
            unknown = [name for name in zoo.classes if _key(name) not in known]
            if unknown:
                return None, f"it does not know {_some(unknown)}"
    if zoo.label_set and own.label_set and zoo.label_set != own.label_set:
        return None, f"its label set is {own.label_set}, that of {zoo.name} is {zoo.label_set}"
    if zoo.num_classes != own.num_classes and zoo.label_set and own.label_set:
        raise InputError(
            f"{zoo.name} and {own.name} are said to have the label set {zoo.label_set}, but have "
            f"{zoo.num_classes} and {own.num_classes} classes; correct label_set or num_classes, "
            "or give a label_map"
        )
    if zoo.num_classes != own.num_classes:
        return None, f"it has {own.num_classes} classes, {zoo.name} has {zoo.num_classes}"
    return same, ""


def places_by_name(wanted: Sequence[str], own: Sequence[str]) -> tuple[int, ...] | None:
    """Where each of the wanted classes is among a network's own; None if names do not tell.

    Case, underscores and spaces do not count.
    """
    places, needed = _unique_places(own), _unique_places(wanted)
    if places is None or needed is None or not needed.keys() <= places.keys():
        return None
    return tuple(places[key] for key in needed)


def _given(zoo: ModelSpec, own: ModelSpec) -> tuple[int, ...]:
    given = own.label_map
    if len(given) != zoo.num_classes:
        raise InputError(
            f"{own.name}: label_map has {len(given)} entries, expected one for each of the "
            f"{zoo.num_classes} classes of {zoo.name}"
        )
    places = _unique_places(own.classes) or {}
    indices = [places.get(_key(each)) if isinstance(each, str) else each for each in given]
    wrong = [
        repr(each)
        for each, index in zip(given, indices, strict=True)
        if index is None or not 0 <= index < own.num_classes
    ]
    if wrong:
        raise InputError(
            f"{own.name}: label_map names {_some(wrong)}, expected names of its classes or their "
            f"indices, 0 to {own.num_classes - 1}"
        )
    return tuple(index for index in indices if index is not None)


def _key(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _unique_places(names: Sequence[str]) -> dict[str, int] | None:
    """Index by name, or None if two classes have one name (ImageNet has two cranes)."""
    keys = [_key(name) for name in names]
    if max(Counter(keys).values(), default=1) > 1:
        return None
    return {key: index for index, key in enumerate(keys)}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
