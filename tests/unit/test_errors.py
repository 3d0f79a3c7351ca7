"""Errors of other libraries become short ones of mixmix."""

from __future__ import annotations

import pytest

from mixmix.errors import (
    CaptureError,
    DataError,
    InputError,
    first_line,
    is_out_of_memory,
    translate_errors,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\ntwo", "one"),
        (
            "Error(s) in loading state_dict:\n\tmissing a\nb",
            "Error(s) in loading state_dict: missing a",
        ),
        ("", "RuntimeError"),
        ("x" * 300, "x" * 197 + "..."),
        ("One fault. " + "y" * 300, "One fault"),
    ],
)
def test_first_line(text: str, expected: str) -> None:
    assert first_line(RuntimeError(text)) == expected


def test_errors_of_other_libraries_are_translated() -> None:
    with (
        pytest.raises(DataError, match="^cannot read x: broken; download it again$") as caught,
        translate_errors("cannot read x", "download it again", into=DataError),
    ):
        raise RuntimeError("broken\nat line 3")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_errors_of_mixmix_pass() -> None:
    error = CaptureError("cannot capture")
    with pytest.raises(InputError) as caught, translate_errors("cannot load"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("could not create a primitive"), OSError(12, "")]
)
def test_too_little_memory_is_no_fault_of_an_input(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translate_errors("cannot convert"):
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("step 1 of 3 has failed") from cause
    assert caught.value is error
    assert not is_out_of_memory(RuntimeError("broken"))
