"""Metadata of files for those who run them; ``docs/deploy.md`` lists the keys."""

from __future__ import annotations

import json
from typing import Any

from mixmix._version import __version__
from mixmix.compress.method import Compressed

__all__ = ["deployment_notes"]


def deployment_notes(compressed: Compressed) -> dict[str, str]:
    """What a program needs to run the file on photographs, as text or JSON."""
    spec = compressed.spec
    _, height, width = spec.input_shape
    side = spec.resize or (height if height == width else "cover")
    origin = {
        "network": spec.name,
        "source": spec.source,
        "weights_sha256": spec.sha256,
        "methods": [settings.get("method", "?") for settings in compressed.settings],
        "made_by": f"mixmix {__version__}",
    }
    listed: dict[str, Any] = {
        "input_shape": spec.input_shape,
        "mean": spec.mean,
        "std": spec.std,
        "resize": side,
        "crop": (height, width),
        "classes": spec.classes,
        "provenance": origin,
    }
    return {
        "input_name": "images",
        "input_layout": "NCHW",
        "input_type": "float32",
        "interpolation": spec.interpolation or "bilinear",
        "output": "logits",
        "license": spec.license,
        **{key: json.dumps(value) for key, value in listed.items()},
    }
