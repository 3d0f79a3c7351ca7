"""What pruning refuses."""

from __future__ import annotations

from collections.abc import Mapping

from mixmix.errors import InputError
from mixmix.models.classes import list_some

__all__ = ["nothing_to_prune"]


def nothing_to_prune(name: str, what: str, reasons: Mapping[str, str]) -> InputError:
    """The error that a network has nothing to prune, with the layers of each reason."""
    layers: dict[str, list[str]] = {}
    for layer, reason in reasons.items():
        layers.setdefault(reason, []).append(layer)
    listed = "; ".join(f"{list_some(names)}: {reason}" for reason, names in layers.items())
    return InputError(f"{name} has no {what} to prune: {listed or 'it has no layers'}")
