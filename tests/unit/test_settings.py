"""Settings are written as plain types and read back; what is wrong is named."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mixmix._settings import Settings
from mixmix.errors import InputError


@dataclass(frozen=True)
class Shape(Settings):
    family: ClassVar[str] = "shape"
    color: str = "red"


@dataclass(frozen=True)
class Circle(Shape):
    kind: ClassVar[str] = "circle"
    radius: float = 1.0


@dataclass(frozen=True)
class Square(Shape):
    kind: ClassVar[str] = "square"
    sides: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Drawing(Settings):
    title: str
    shapes: tuple[Shape, ...] = ()
    frame: Circle | None = None
    notes: Mapping[str, int] = field(default_factory=dict)
    folder: Path | None = None


def test_what_is_written_is_read_back() -> None:
    drawing = Drawing(
        "all", (Circle(radius=2.5), Square("blue", (2, 3))), Circle(), {"a": 1}, Path("x/y")
    )
    plain = json.loads(json.dumps(drawing.to_dict()))
    assert plain["shapes"][0] == {"shape": "circle", "color": "red", "radius": 2.5}
    assert Drawing.from_dict(plain) == drawing
    assert Drawing.from_dict({"title": "few"}) == Drawing("few")


def test_representations_have_what_differs_from_the_defaults() -> None:
    assert repr(Circle()) == "Circle()"
    assert repr(Circle("blue", 1.0)) == "Circle(color='blue')"
    inner = "(Square(), Circle(radius=2.5))"
    assert repr(Drawing("all", (Square(), Circle(radius=2.5)))) == (
        f"Drawing(title='all', shapes={inner})"
    )
    assert repr(Circle(radius=1)) == repr(Circle(radius=1.0))


def test_tables_change_the_default_of_the_field() -> None:
    @dataclass(frozen=True)
    class Page(Settings):
        square: Square = field(default_factory=lambda: Square("blue", (2, 3)))

    Page.__annotations__["square"] = Square
    assert Page.from_dict({"square": {"color": "green"}}) == Page(Square("green", (2, 3)))
    assert Page.from_dict({"square": {"shape": "square"}}) == Page(Square())
    page = Page(Square("red", (4, 4)))
    assert page.updated({"square": {"sides": [1, 2]}}) == Page(Square("red", (1, 2)))
    with pytest.raises(InputError, match="Square has no 'side'"):
        page.updated({"square": {"side": 1}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"title": "x", "shaped": []}, "Drawing has no 'shaped'; it has folder, frame, notes"),
        ({}, "Drawing: .*title"),
        ({"title": 3}, r"Drawing\.title must be text, got 3"),
        ({"title": "x", "shapes": {"shape": "circle"}}, r"Drawing\.shapes must be a list"),
        (
            {"title": "x", "shapes": [{"shape": "star"}]},
            "unknown shape 'star'; known: circle, square",
        ),
        ({"title": "x", "shapes": [{"shape": "circle", "radius": "big"}]}, "must be a number"),
        (
            {"title": "x", "frame": {"shape": "circle", "radius": True}},
            "must be a number, got True",
        ),
        ({"title": "x", "shapes": [{"shape": "square", "sides": [1]}]}, "must have 2 values"),
        ({"title": "x", "notes": {"a": True}}, r"Drawing\.notes\.a must be a whole number"),
        ({"title": "x", "shapes": [{"radius": 1}]}, "needs a shape: circle, square"),
        ({"title": "x", "frame": 3}, "expected a table of Circle fields, got 3"),
    ],
)
def test_what_is_wrong_is_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Drawing.from_dict(content)


@dataclass(frozen=True)
class Checked(Settings):
    count: Any = 1
    rate: Any = 0.5
    decay: Any = None
    mode: Any = "a"

    def __post_init__(self) -> None:
        self._require_int("count", least=1)
        self._require_range("rate", low=0, ends="(]")
        self._require_range("decay", low=0, high=1, ends="[)", optional=True)
        self._require_one_of("mode", ("a", "b"))


@pytest.mark.parametrize("valid", [{}, {"count": 7, "rate": 1}, {"decay": 0}, {"mode": "b"}])
def test_valid_values_are_accepted(valid: dict[str, Any]) -> None:
    Checked(**valid)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0}, "count must be a whole number >= 1, got 0"),
        ({"count": True}, "count must be a whole number >= 1, got True"),
        ({"count": 1.0}, "count must be a whole number >= 1, got 1.0"),
        ({"rate": 0}, "rate must be a finite number > 0, got 0"),
        ({"rate": float("inf")}, "rate must be a finite number > 0, got inf"),
        ({"rate": float("nan")}, "rate must be a finite number > 0, got nan"),
        ({"rate": None}, "rate must be a finite number > 0, got None"),
        ({"decay": 1}, "decay must be in [0, 1) or None, got 1"),
        ({"decay": "0.5"}, "decay must be in [0, 1) or None, got '0.5'"),
        ({"mode": "c"}, "mode must be one of a, b, got 'c'"),
    ],
)
def test_invalid_values_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Checked(**wrong)
