"""The public names: lazy, complete, and the same for type checkers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mixmix


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", mixmix.__all__)
def test_every_name_resolves(name: str) -> None:
    value = getattr(mixmix, name)
    assert isinstance(value, ModuleType) == (name in ("errors", "loaders", "terms"))
    assert name in dir(mixmix)


def test_type_checkers_see_what_is_there() -> None:
    tree = ast.parse(Path(mixmix.__file__).read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen.keys() | {"__version__"} == set(mixmix.__all__)
    homes = {name: f"mixmix.{home}" for name, home in mixmix._HOME_OF.items()}
    assert {name: home for name, home in seen.items() if name in homes} == homes
    assert list(mixmix.__all__) == sorted(mixmix.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'mixmix' has no attribute 'nonsense'"):
        mixmix.nonsense  # noqa: B018


@pytest.mark.parametrize("module", ["mixmix", "mixmix.errors", "mixmix.cli.main"])
def test_imports_are_light(module: str) -> None:
    heavy = ("torch", "numpy", "scipy", "onnx", "onnxruntime", "matplotlib", "PIL", "numba")
    code = (
        f"import time; start = time.process_time(); import {module}; "
        f"seconds = time.process_time() - start; import sys; "
        f"print([name for name in {heavy} if name in sys.modules], seconds < 0.5)"
    )
    assert run(code) == "[] True"


def test_a_function_is_not_hidden_by_the_package_of_its_name() -> None:
    code = (
        "import mixmix, mixmix.export, mixmix.compress.method, mixmix.evaluate.intervals; "
        "print(*(getattr(mixmix, n).__name__ for n in ('compress', 'evaluate', 'export')))"
    )
    assert run(code) == "compress evaluate export"


def test_the_environment_stays_as_it_is() -> None:
    code = (
        "import os; before = dict(os.environ); import mixmix; mixmix.compress; mixmix.synthesize; "
        "print(dict(os.environ) == before)"
    )
    assert run(code) == "True"
