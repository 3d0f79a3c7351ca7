"""Networks built by a function of the caller's own code."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from mixmix.errors import InputError, translate_errors
from mixmix.models.sources.source import Source
from mixmix.models.spec import ModelSpec

__all__ = ["PythonSource"]


class PythonSource(Source):
    """``python:MODULE:CALLABLE``; the callable takes no arguments and returns the module."""

    pattern = "MODULE:CALLABLE"
    adapts = False

    def describe(self, name: str) -> dict[str, Any]:
        return {}

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        module, _, function = name.partition(":")
        with translate_errors(f"{spec.name}: cannot build {spec.source!r}"):
            try:
                model = getattr(importlib.import_module(module), function)()
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
