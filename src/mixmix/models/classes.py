"""Matching of the classes of two label spaces by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from unicodedata import normalize

from mixmix._display import shorten
from mixmix.errors import InputError

__all__ = [
    "ClassMatch",
    "LabelSpace",
    "find_classes",
    "list_some",
    "match_classes",
    "repeated_names",
    "tell_sides",
]

# More names than that are not repeated in label sets; ImageNet has two cranes and two maillots.
_MOST_REPEATED = 0.01

# Spellings of one label set may contradict one another in a few names: ImageNet has two cranes.
_MOST_CONTRADICTIONS = 0.1

# Classes tell left from right if at least this fraction of their names is of digits or letters, or
# names a side.
_LEAST_SIDED = 0.01
_NUMBERS = "zero|one|two|three|four|five|six|seven|eight|nine"
_CHARACTER = re.compile(
    r"(?:(?:digit|number|letter|char|character) )?"
    rf"(?:[^\W\d_]|{_NUMBERS}|[0-9](?: ?[-:]? ?(?:{_NUMBERS}))?)"
)
_SIDE = re.compile(r"\b(?:left|right)(?:wards?|hand|handed)?\b(?! whale| angle)")
# More classes with the names 0, 1, 2 ... have no other names.
_NUM_DIGITS = 10
# Characters of a name in a message.
_LONGEST_SHOWN = 80


@dataclass(frozen=True)
class LabelSpace:
    """Classes of a network or an image set.

    Attributes:
        owner: what has them, for messages.
        num_classes: their number.
        names: one for each class, or empty.
        label_set: name of the label set, or empty.
    """

    owner: str
    num_classes: int
    names: tuple[str, ...] = ()
    label_set: str = ""


class ClassMatch(NamedTuple):
    """For each wanted class its index, or None where it is missing.

    Attributes:
        indices: one for each wanted class; empty if the classes do not correspond at all.
        why: why classes are missing, or empty.
        guessed: whether classes are matched by index, and only one side has names.
    """

    indices: tuple[int | None, ...]
    why: str = ""
    guessed: bool = False

    @property
    def complete(self) -> tuple[int, ...] | None:
        """The indices if no class is missing."""
        found = tuple(index for index in self.indices if index is not None)
        return found if not self.why and len(found) == len(self.indices) else None


def match_classes(wanted: LabelSpace, own: LabelSpace) -> ClassMatch:
    """Match classes by name; by index if one side has no names, or label sets are the same.

    Names that contradict the index are never ignored.

    Args:
        wanted: the classes to find.
        own: the classes to find them in.

    Raises:
        InputError: if both have the same label set and different numbers of classes.
    """
    same = tuple(range(wanted.num_classes))
    declared = bool(wanted.label_set) and wanted.label_set == own.label_set
    if wanted.names and own.names:
        found = find_classes(wanted.names, own.names)
        if None not in found:
            return ClassMatch(found)
        moved = [i for i, j in enumerate(found) if j is not None and j != i]
        num_matched = sum(index is not None for index in found)
        contradicted = len(moved) > _MOST_CONTRADICTIONS * num_matched
        if not declared or contradicted:
            missing = [name for name, j in zip(wanted.names, found, strict=True) if j is None]
            several = [name for name in dict.fromkeys(missing) if name in own.names]
            if len(several) == len(set(missing)):
                return ClassMatch(found, f"several classes have the name {list_some(several)}")
            return ClassMatch(found, f"it lacks {list_some(missing)}")
    if wanted.label_set and own.label_set and not declared:
        return ClassMatch((), _label_sets_differ(wanted, own))
    if wanted.num_classes != own.num_classes:
        if declared:
            raise InputError(
                f"{wanted.owner} and {own.owner} have the label set {wanted.label_set}, but "
                f"{wanted.num_classes} and {own.num_classes} classes; correct label_set or "
                "num_classes, or set a label_map"
            )
        counts = f"it has {own.num_classes} classes, {wanted.owner} has {wanted.num_classes}"
        return ClassMatch((), counts)
    return ClassMatch(same, guessed=bool(wanted.names) != bool(own.names) and not declared)


def _label_sets_differ(wanted: LabelSpace, own: LabelSpace) -> str:
    return f"its label set is {own.label_set}, that of {wanted.owner} is {wanted.label_set}"


def find_classes(wanted: Sequence[str], own: Sequence[str]) -> tuple[int | None, ...]:
    """The index in ``own`` of each wanted name, or None.

    Equal names come first. Names that are left on both sides match if they differ in case,
    underscores, spaces or the composition of accents alone, and no other name does. Classes that
    share a name match if they have the same indices on both sides.
    """
    found: list[int | None] = [None] * len(wanted)
    taken: set[int] = set()
    for key in (str, _folded):
        mine = [(key(n), i) for i, n in enumerate(wanted) if found[i] is None]
        theirs = [(key(n), i) for i, n in enumerate(own) if i not in taken]
        counts, others = Counter(k for k, _ in mine), Counter(k for k, _ in theirs)
        index = dict(theirs)
        places = {(k, i) for k, i in theirs}
        shared = {k for k in counts if counts[k] > 1 and counts[k] == others[k]}
        shared -= {k for k, i in mine if k in shared and (k, i) not in places}
        for k, i in mine:
            if k in shared:
                found[i] = i
            elif counts[k] == others[k] == 1:
                found[i] = index[k]
        taken |= {index for index in found if index is not None}
    return tuple(found)


def _folded(name: str) -> str:
    return " ".join(normalize("NFC", name).casefold().replace("_", " ").split())


def repeated_names(names: tuple[str, ...]) -> list[str]:
    """Names of several classes, if they are too many to be those of a label set."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    return repeated if len(repeated) > _MOST_REPEATED * len(names) else []


@lru_cache(maxsize=64)
def tell_sides(names: tuple[str, ...]) -> bool:
    """Whether names of classes say that mirrored images change class: digits, letters, sides."""
    if len(names) > _NUM_DIGITS and names == tuple(map(str, range(len(names)))):
        return False
    spaced = (re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name) for name in names)
    sided = [n for n in map(_folded, spaced) if _CHARACTER.fullmatch(n) or _SIDE.search(n)]
    return len(sided) > 0 and len(sided) >= _LEAST_SIDED * len(names)


def list_some(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    some = [shorten(str(name), _LONGEST_SHOWN) for name in names[:4]]
    return ", ".join(some) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
