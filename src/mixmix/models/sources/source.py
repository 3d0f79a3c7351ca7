"""The interface of a source of models, and the checks that sources share."""

from __future__ import annotations

import difflib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from mixmix.errors import InputError
from mixmix.models.spec import ModelSpec

__all__ = ["Source", "check_pretrained", "names_if_installed", "require", "unknown_name"]


class Source(ABC):
    """A source of models: describes them, builds them and loads their weights.

    ``name`` is the part of a reference after its kind: ``resnet18`` in ``timm:resnet18``.

    Attributes:
        pattern: the form of ``name``, for error messages.
        adapts: whether networks are built for the channels, classes and size of the spec.
        has_own_weights: whether a model's file includes its weights, so that no others can be
            loaded.
    """

    pattern = "NAME"
    adapts = True
    has_own_weights = False

    @abstractmethod
    def describe(self, name: str) -> dict[str, Any]:
        """The fields of ``ModelSpec`` that are known without loading the weights.

        Raises:
            InputError: if there is no such model, or a package is missing.
        """

    @abstractmethod
    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        """The architecture with new weights.

        Raises:
            InputError: if it cannot be built for this spec.
        """

    @abstractmethod
    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        """The network with its pretrained weights.

        Raises:
            InputError: if there are none, or they are neither cached nor downloadable.
            DataError: if they are damaged.
        """

    def names(self) -> Iterable[str]:
        """Known names, for error messages; none by default."""
        return ()

    def core(self, model: nn.Module) -> nn.Module:
        """The part of a model from ``build`` that the state dict of a checkpoint belongs to."""
        return model


def require(module: str, source: str, install: str) -> Any:
    """Import an optional package.

    Raises:
        InputError: if it cannot be imported, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{source} needs the package {module}, which cannot be imported ({error}); "
            f"pip install {install}"
        ) from error


def names_if_installed(module: str) -> list[str]:
    """What ``list_models`` of an optional package gives; nothing without the package."""
    try:
        package = importlib.import_module(module)
    except ImportError:
        return []
    return list(package.list_models())


def unknown_name(problem: str, name: str, known: Sequence[str]) -> InputError:
    """An error for ``name``, with the most similar of the known names."""
    near = difflib.get_close_matches(name, known, 4, 0.5)
    return InputError(f"{problem} {name!r}; similar: {', '.join(near) or 'none'}")


def check_pretrained(spec: ModelSpec, known: Mapping[str, Any]) -> None:
    """Check that a spec has the channels and classes of the pretrained weights.

    A backbone (``num_classes = 0``) leaves the head out.

    Args:
        spec: of the requested network.
        known: from ``describe``; missing fields are not checked.

    Raises:
        InputError: if they differ.
    """
    classes = known.get("num_classes", spec.num_classes)
    channels = (known.get("input_shape") or spec.input_shape)[0]
    for what, key, asked, trained in (
        ("classes", "num_classes", spec.num_classes or classes, classes),
        ("channels", "input_shape", spec.input_shape[0], channels),
    ):
        if asked != trained:
            raise InputError(
                f"{spec.name}: the pretrained weights of {spec.source} have {trained} {what}, the "
                f"spec says {asked}; pass your own checkpoint as weights, or leave {key} out"
            )
