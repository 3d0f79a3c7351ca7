"""Metadata of exported files."""

from __future__ import annotations

import json

from mixmix._version import __version__
from mixmix.compress.method import Compressed

__all__ = ["notes"]


def notes(compressed: Compressed) -> dict[str, str]:
    """Spec, settings and version as strings, for ``ModelSpec.from_metadata``."""
    return {
        "mixmix.spec": json.dumps(compressed.spec.to_dict()),
        "mixmix.settings": json.dumps(list(compressed.settings)),
        "mixmix.version": __version__,
    }
