"""Members of a zoo: networks, and the mapping of their classes to those of the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixmix.errors import InputError, warn
from mixmix.models.classes import LabelSpace, find_classes, list_some, match_classes
from mixmix.models.model import Model
from mixmix.models.spec import ModelSpec

__all__ = ["Member", "label_map", "label_space", "members_of"]


@dataclass(frozen=True)
class Member:
    """A network of a zoo.

    Attributes:
        model: the network.
        weight: its relative probability of being drawn at a step, or, if all networks take part in
            every step, the weight of its losses.
        labels: for each class of the zoo, the index of this network's logit, (K,); None if it has
            other classes and contributes only BatchNorm statistics.
        why: why it has no labels, or empty.
    """

    model: Model
    weight: float = 1.0
    labels: tuple[int, ...] | None = None
    why: str = ""

    @property
    def role(self) -> str:
        """What the network contributes, in words."""
        parts = ["labels"] * (self.labels is not None)
        parts += ["BatchNorm statistics"] * bool(self.model.batch_norms)
        text = " and ".join(parts) or "nothing"
        return f"only {text} ({self.why})" if self.why else text

    def logits_of_zoo(self, logits: Tensor) -> Tensor:
        """This network's logits (N, own K) in the classes and order of the zoo (N, K)."""
        assert self.labels is not None
        if self.labels == tuple(range(logits.shape[1])):
            return logits
        return logits[:, torch.tensor(self.labels, device=logits.device)]


def members_of(models: Sequence[Model], weights: Sequence[float] | None) -> tuple[Member, ...]:
    """The members of a zoo, whose classes are those of its first network with a label head.

    Args:
        models: the networks, in order.
        weights: one for each, > 0; None for equal weights.

    Raises:
        InputError: if a network has neither labels nor BatchNorm statistics to contribute.
    """
    first = next((each.spec for each in models if each.has_label_head), None)
    members = []
    for model, weight in zip(models, weights or (1.0,) * len(models), strict=True):
        if first is None or not model.has_label_head:
            members.append(Member(model, weight))
            continue
        labels, why = label_map(first, model.spec)
        if labels is None and not model.batch_norms:
            raise InputError(
                f"{model.spec.name} cannot be in a zoo with {first.name}: it has no "
                f"BatchNorm, and {why}; set its label_map, or leave it out"
            )
        members.append(Member(model, weight, labels, why))
    return tuple(members)


def label_map(zoo: ModelSpec, own: ModelSpec) -> tuple[tuple[int, ...] | None, str]:
    """Map the classes of a zoo to the logits of a network.

    By ``own.label_map``, else by the names of the classes, else by index if label sets and numbers
    of classes do not differ (see ``match_classes``).

    Args:
        zoo: spec of the network that defines the zoo's classes.
        own: spec of the network to map.

    Returns:
        The index of its logit for each class of the zoo, and an empty text; or None and the reason.

    Raises:
        InputError: if ``own.label_map`` is invalid, or networks with the same label set have
            different numbers of classes.
    """
    if own.label_map:
        return _given(zoo, own), ""
    match = match_classes(label_space(zoo), label_space(own))
    if match.complete is None:
        return None, match.why
    if match.guessed:
        warn(
            f"classes of {own.name} and {zoo.name} are matched by index, since only one of them "
            "has names; set classes of both, or the same label_set"
        )
    return match.complete, ""


def label_space(spec: ModelSpec) -> LabelSpace:
    """The classes of a network."""
    return LabelSpace(spec.name, spec.num_classes, spec.classes, spec.label_set)


def _given(zoo: ModelSpec, own: ModelSpec) -> tuple[int, ...]:
    given = own.label_map
    if len(given) != zoo.num_classes:
        raise InputError(
            f"{own.name}: label_map has {len(given)} entries, expected one for each of the "
            f"{zoo.num_classes} classes of {zoo.name}"
        )
    indices = [
        find_classes([each], own.classes)[0] if isinstance(each, str) else each for each in given
    ]
    wrong = [
        repr(each)
        for each, index in zip(given, indices, strict=True)
        if index is None or not 0 <= index < own.num_classes
    ]
    if wrong:
        raise InputError(
            f"{own.name}: label_map names {list_some(wrong)}, expected names of its classes or "
            f"their indices, 0 to {own.num_classes - 1}"
        )
    found = tuple(index for index in indices if index is not None)
    _warn_of_contradictions(zoo, own, found)
    return found


def _warn_of_contradictions(zoo: ModelSpec, own: ModelSpec, found: tuple[int, ...]) -> None:
    """Warn if a ``label_map`` names a class twice, or another class than the names do."""
    twice = sorted({index for index in found if found.count(index) > 1})
    if twice:
        warn(
            f"{own.name}: label_map names {list_some(list(map(str, twice)))} more than once; "
            f"give each class of {zoo.name} its own"
        )
    by_name = find_classes(zoo.classes, own.classes) if zoo.classes and own.classes else ()
    others = [zoo.classes[i] for i, j in enumerate(by_name) if j not in (None, found[i])]
    if others:
        warn(
            f"{own.name}: label_map gives {list_some(others)} other classes than those of the same "
            "names; correct label_map or classes, or leave out label_map to match names"
        )
