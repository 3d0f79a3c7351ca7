"""The bundled networks, whose weights are part of the package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mixmix._display import did_you_mean
from mixmix.demo.architectures import build_architecture
from mixmix.errors import DataError, InputError
from mixmix.models.sources.source import Source, check_pretrained
from mixmix.models.spec import ModelSpec
from mixmix.runtime.storage import read_tensors

__all__ = ["BundledSource", "build_bundled", "bundled_members", "bundled_names", "load_bundled"]


def _folder() -> Path:
    return Path(str(files("mixmix.demo"))) / "assets" / "zoo"


def bundled_names() -> tuple[str, ...]:
    """Names of the bundled networks, in alphabetical order."""
    return tuple(sorted(path.stem for path in _folder().glob("*.safetensors")))


def bundled_members() -> tuple[str, ...]:
    """Names of the bundled networks with BatchNorm, the default zoo."""
    return tuple(name for name in bundled_names() if _has_batch_norms(_path(name)))


@cache
def _has_batch_norms(path: Path) -> bool:
    with _opened(path) as file:
        names = file.keys()
    return any(name.endswith("running_mean") for name in names)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is damaged ({error}); install mixmix again") from error


def _path(name: str) -> Path:
    path = _folder() / f"{name}.safetensors"
    if not path.exists():
        raise InputError(
            f"no bundled network named {name!r}; bundled: {', '.join(bundled_names())}"
            + did_you_mean(name, bundled_names())
        )
    return path


@cache
def bundled_metadata(name: str) -> dict[str, str]:
    """Metadata of a bundled network: architecture, accuracy, training command, hash."""
    with _opened(_path(name)) as file:
        return dict(file.metadata())


class BundledSource(Source):
    """``bundled:NAME``: a network whose architecture and weights are in the package."""

    adapts = False

    def describe(self, name: str) -> dict[str, Any]:
        metadata = bundled_metadata(name)
        classes = json.loads(metadata["classes"])
        return {
            "name": name,
            "input_shape": tuple(json.loads(metadata["input_shape"])),
            "mean": tuple(json.loads(metadata["mean"])),
            "std": tuple(json.loads(metadata["std"])),
            "num_classes": len(classes),
            "label_set": metadata["label_set"],
            "classes": tuple(classes),
            "license": metadata["license"],
            "top1": float(metadata["top1"]),
        }

    def names(self) -> tuple[str, ...]:
        return bundled_names()

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        return build_bundled(name)

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        check_pretrained(spec, self.describe(name))
        return load_bundled(name)


def _sha256(tensors: dict[str, Tensor]) -> str:
    """Hash of the weights, as ``training/train.py`` writes it into the file."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].numpy().tobytes())
    return digest.hexdigest()


def build_bundled(name: str) -> nn.Module:
    """A bundled architecture with fresh weights.

    Raises:
        InputError: if there is no network of that name.
    """
    metadata = bundled_metadata(name)
    return build_architecture(
        metadata["architecture"], num_classes=len(json.loads(metadata["classes"]))
    )


def load_bundled(name: str) -> nn.Module:
    """A bundled network with its trained weights, in float32 and eval mode.

    Raises:
        InputError: if there is no network of that name.
        DataError: if its file is damaged.
    """
    path = _path(name)
    tensors, metadata = read_tensors(path)
    if _sha256(tensors) != metadata["weights_sha256"]:
        raise DataError(
            f"{path} is damaged: its weights do not match their hash; install mixmix again"
        )
    model = build_bundled(name)
    floats = {
        key: value.float() if value.is_floating_point() else value for key, value in tensors.items()
    }
    model.load_state_dict(floats)
    return model.eval()
