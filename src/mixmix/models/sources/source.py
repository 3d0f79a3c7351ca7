"""What every kind of model reference does, and the checks that they share."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import nn

from mixmix.errors import InputError
from mixmix.models.spec import ModelSpec

__all__ = ["Source", "check_pretrained", "given_number", "given_shape", "require"]


class Source(ABC):
    """A kind of reference: what its models are known by, and how they are built.

    ``name`` is what follows the kind: ``resnet18`` of ``timm:resnet18``.

    Attributes:
        pattern: what follows the kind, for messages.
        adapts: whether networks are built for the channels, classes and size of the spec. If not,
            they are what they are.
        has_own_weights: whether a model is one file that no other weights belong into.
    """

    pattern = "NAME"
    adapts = True
    has_own_weights = False

    @abstractmethod
    def describe(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of ``ModelSpec`` that can be known without the weights.

        Args:
            name: of the model.
            given: what the caller says already; not yet validated.

        Raises:
            InputError: if there is no such model, or a package is absent.
        """

    @abstractmethod
    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        """The architecture with fresh weights.

        Raises:
            InputError: if it cannot be built so.
        """

    @abstractmethod
    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        """The network with its pretrained weights.

        Raises:
            InputError: if there are none, or they are neither cached nor downloadable.
            DataError: if they are damaged.
        """

    def core(self, model: nn.Module) -> nn.Module:
        """The part of a model from ``build`` whose state dict a checkpoint holds."""
        return model


def require(module: str, source: str, install: str) -> Any:
    """Import an optional package.

    Raises:
        InputError: if it is absent, saying how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{source} needs the package {module}, which cannot be imported ({error}); "
            f"pip install {install}"
        ) from error


def check_pretrained(spec: ModelSpec, known: Mapping[str, Any]) -> None:
    """Pretrained weights serve the channels and classes that they were trained for.

    A backbone (``num_classes = 0``) leaves the head out.

    Args:
        spec: what is asked for.
        known: from ``describe``; what it does not say is not checked.

    Raises:
        InputError: if the spec asks for others.
    """
    shape = known.get("input_shape") or spec.input_shape
    for what, key, asked, trained in (
        ("classes", "num_classes", spec.num_classes, known.get("num_classes", spec.num_classes)),
        ("channels", "input_shape", spec.input_shape[0], shape[0]),
    ):
        if asked != trained and not (what == "classes" and asked == 0):
            raise InputError(
                f"{spec.name}: the pretrained weights of {spec.source} have {trained} {what}, the "
                f"spec says {asked}; give your own checkpoint as weights, or leave {key} out"
            )


def given_number(given: Mapping[str, Any], key: str) -> int | None:
    """A whole number of the caller; None where there is none, or something else."""
    value = given.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def given_shape(given: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """(C, H, W) of the caller; None where there is none, or something else."""
    value = given.get("input_shape")
    if isinstance(value, (list, tuple)) and len(value) == 3:
        channels, height, width = value
        if all(isinstance(size, int) for size in value):
            return channels, height, width
    return None
