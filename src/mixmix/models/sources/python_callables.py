"""Networks built by a function of the caller's own code."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from mixmix._display import did_you_mean
from mixmix.errors import InputError, translate_errors
from mixmix.models.sources.source import Source
from mixmix.models.spec import ModelSpec

__all__ = ["PythonSource"]


class PythonSource(Source):
    """``python:MODULE:CALLABLE``; the callable takes no arguments and returns the module.

    MODULE is the name of one that Python finds, also in the current folder, or the path of a .py
    file.
    """

    pattern = "MODULE:CALLABLE"
    adapts = False

    def describe(self, name: str) -> dict[str, Any]:
        return {}

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        module, _, function = name.rpartition(":")  # paths may contain colons
        with translate_errors(f"{spec.name}: cannot build {spec.source!r}"):
            try:
                found = _imported(module)
                if not hasattr(found, function):
                    raise InputError(
                        f"{module} has no {function!r}" + did_you_mean(function, vars(found))
                    )
                model = getattr(found, function)()
            except SystemExit as error:
                raise InputError(
                    f"{spec.name}: {spec.source!r} ended the process ({error.code}); put what a "
                    "script does below if __name__ == '__main__'"
                ) from error
        if not isinstance(model, nn.Module):
            raise InputError(
                f"{spec.name}: {spec.source!r} returned {type(model).__name__}, not a module"
            )
        return model

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        return self.build(name, spec)


def _imported(module: str) -> ModuleType:
    """A module by name, also from the current folder, or by the path of its file."""
    path = Path(module)
    if path.suffix != ".py":
        with _on_path(Path.cwd()):
            return importlib.import_module(module)
    if not path.is_file():
        raise InputError(f"there is no file {path}; check the source of the network")
    with _on_path(path.parent.resolve()):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, found)
        spec.loader.exec_module(found)
        return found


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Context in which modules of a folder can be imported, if no others have their names."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
