from __future__ import annotations

import pytest

from mixmix.errors import InputError
from mixmix.models.classes import LabelSpace, find_classes, match_classes

DIGITS, UPPER = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def space(names: tuple[str, ...], label_set: str = "", count: int | None = None) -> LabelSpace:
    return LabelSpace("net", len(names) if count is None else count, names, label_set)


@pytest.mark.parametrize(
    "own", [DIGITS + UPPER.lower() + UPPER, "".join(a + a.lower() for a in UPPER) + DIGITS]
)
def test_names_that_differ_in_case_alone(own: str) -> None:
    wanted = tuple(DIGITS + UPPER + UPPER.lower())  # as EMNIST
    found = match_classes(space(wanted), space(tuple(own))).complete
    assert found is not None and [own[index] for index in found] == list(wanted)


def test_equal_names_come_before_similar_ones() -> None:
    assert find_classes(("a", "Fire_Truck"), ("A", "fire  truck", "a")) == (2, 1)
    assert find_classes(("A",), ("a", "a ")) == (None,)


def test_accents_match_however_they_are_composed() -> None:
    composed, combined = ("caf\u00e9", "\u00c5sa"), ("A\u030asa", "cafe\u0301")
    assert find_classes(composed, combined) == (1, 0)


@pytest.mark.parametrize(
    ("wanted", "own", "why"),
    [
        (
            ("cat", "dog", "unknown", "unknown"),
            ("unknown", "unknown", "cat", "dog"),
            "several classes have the name unknown",
        ),
        (("cat", "dog", "fox"), ("dog", "cat", "wolf"), "it lacks fox"),
        (
            ("crane", "dog", "crane"),
            ("crane", "crane", "dog"),
            "several classes have the name crane",
        ),
    ],
)
@pytest.mark.parametrize("label_set", ["", "animals"])
def test_names_that_contradict_the_index(
    wanted: tuple[str, ...], own: tuple[str, ...], why: str, label_set: str
) -> None:
    match = match_classes(space(wanted, label_set), space(own, label_set))
    assert match.complete is None and match.why == why


def test_classes_with_one_name_at_the_same_places() -> None:
    names = ("crane", "dog", "crane")
    assert match_classes(space(names), space((*names, "sun"))).complete == (0, 1, 2)


def test_two_spellings_of_one_label_set() -> None:
    wanted, own = ("tabby", "dog", "ship"), ("cat", "dog", "boat")
    assert match_classes(space(wanted, "pets"), space(own, "pets")).complete == (0, 1, 2)
    assert match_classes(space(wanted), space(own)).complete is None


def test_one_side_without_names() -> None:
    names = ("cat", "dog")
    match = match_classes(space(names), space((), count=2))
    assert match.complete == (0, 1) and match.guessed
    declared = match_classes(space(names, "pets"), space((), "pets", count=2))
    assert declared.complete == (0, 1) and not declared.guessed
    assert match_classes(space(names), space((), count=3)).complete is None
    with pytest.raises(InputError, match="label set pets, but 2 and 3 classes"):
        match_classes(space(names, "pets"), space((), "pets", count=3))
