"""What is changed in the process, and that it is changed back."""

from __future__ import annotations

from typing import Any

import pytest

from mixmix.runtime import allocator

KEEP, DEFAULT = "keep", "default"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What glibc is told."""
    made: list[Any] = []

    def set_(parameters: dict[int, int]) -> bool:
        made.append(KEEP if parameters == allocator._KEEP else DEFAULT)
        return True

    monkeypatch.setattr(allocator, "_set", set_)
    monkeypatch.setattr(allocator, "_users", 0)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: _Libc(made))
    for name in allocator._PARAMETERS:
        monkeypatch.delenv(f"MALLOC_{name.upper()}_", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return made


class _Libc:
    def __init__(self, made: list[Any]) -> None:
        self.malloc_trim = lambda pad: made.append("trim")


def test_a_block_is_undone_at_its_end(calls: list[Any]) -> None:
    with allocator.keeping_freed_memory():
        assert calls == [KEEP]
    assert calls == [KEEP, DEFAULT, "trim"]


def test_only_the_outermost_block_counts(calls: list[Any]) -> None:
    @allocator.keeping_freed_memory()
    def inner() -> int:
        return 3

    with pytest.raises(ValueError), allocator.keeping_freed_memory():
        assert inner() == 3 and inner() == 3
        assert calls == [KEEP]
        raise ValueError
    assert calls == [KEEP, DEFAULT, "trim"]


def test_the_switch_for_the_whole_process_stays(calls: list[Any]) -> None:
    assert allocator.keep_freed_memory()
    with allocator.keeping_freed_memory():
        pass
    assert calls == [KEEP]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "100000"),
        ("MALLOC_MMAP_MAX_", "0"),
        ("GLIBC_TUNABLES", "glibc.malloc.top_pad=1"),
    ],
)
def test_what_the_environment_says_stays(
    name: str, value: str, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert not allocator.keep_freed_memory()
    with allocator.keeping_freed_memory():
        pass
    assert calls == []


def test_other_settings_of_the_environment_do_not_count(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert allocator.keep_freed_memory() and calls == [KEEP]


def test_glibc_takes_the_parameters() -> None:
    with allocator.keeping_freed_memory():
        pass  # on another system, nothing happens
