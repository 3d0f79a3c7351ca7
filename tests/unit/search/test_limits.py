"""Limits of a search: sizes as people write them, and what is no limit."""

import pytest

from mixmix.errors import InputError
from mixmix.search import Limits, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500kB", 500_000),
        ("1.2MB", 1_200_000),
        ("1.2 mb".upper(), 1_200_000),
        ("90000B", 90_000),
        ("64KiB", 65_536),
        ("0.2", 2_000),
        ("1", 10_000),
    ],
)
def test_sizes_are_bytes_or_fractions_of_the_float_file(text: str, expected: int) -> None:
    assert parse_size(text, 10_000) == expected


@pytest.mark.parametrize("text", ["", "big", "-1", "0", "0kB", "2", "500", "1e3", "5 apples"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="size"):
        parse_size(text, 10_000)


@pytest.mark.parametrize(
    "wrong", [{}, {"max_loss": 0.0}, {"max_loss": 101.0}, {"max_size": "x"}, {"aim": "cost"}]
)
def test_limits_are_checked(wrong: dict) -> None:
    with pytest.raises(InputError):
        Limits(**({"max_loss": 1.0} if "aim" in wrong else {}), **wrong)
