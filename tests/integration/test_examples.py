"""Every public function has an example in its docstring, and all examples there run."""

from __future__ import annotations

import doctest
import inspect
import warnings
from pathlib import Path

import pytest

import mixmix

_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_PUBLIC = [name for name in mixmix.__all__ if callable(getattr(mixmix, name))]
_FUNCTIONS = [name for name in _PUBLIC if inspect.isfunction(getattr(mixmix, name))]


def examples_of(name: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(recurse=True).find(
        getattr(mixmix, name), name, globs={"mixmix": mixmix}
    )
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_public_functions_show_an_example(name: str) -> None:
    assert examples_of(name), f"mixmix.{name} has no example (>>>) in its docstring"


@pytest.mark.parametrize("name", _PUBLIC)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = examples_of(name)
    if not tests:
        pytest.skip("no example")
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    for test in tests:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            doctest.DocTestRunner(optionflags=_FLAGS).run(test, out=said.append)
    assert not said, "".join(said)
