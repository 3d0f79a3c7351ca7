"""Networks that a function of the caller's own code builds."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from mixmix.errors import InputError
from mixmix.models.sources.source import Source
from mixmix.models.spec import ModelSpec

__all__ = ["PythonSource"]


class PythonSource(Source):
    """``python:MODULE:CALLABLE``: what is called without arguments and returns the module."""

    pattern = "MODULE:CALLABLE"
    adapts = False

    def describe(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        module_name, _, callable_name = name.partition(":")
        try:
            model = getattr(importlib.import_module(module_name), callable_name)()
        except Exception as error:  # whatever the caller's own code raises
            raise InputError(f"{spec.name}: cannot build {spec.source!r}: {error}") from error
        if not isinstance(model, nn.Module):
            raise InputError(
                f"{spec.name}: {spec.source!r} gave {type(model).__name__}, not a module"
            )
        return model

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        return self.build(name, spec)
