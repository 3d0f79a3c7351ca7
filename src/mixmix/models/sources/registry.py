"""The known sources of models, and specs completed by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from mixmix._settings import load_entry_points
from mixmix.errors import InputError, MissingFieldsError, translate_errors
from mixmix.models.sources.hugging_face import HuggingFaceSource
from mixmix.models.sources.imagenet import ImagenetSource
from mixmix.models.sources.onnx_files import OnnxSource
from mixmix.models.sources.programs import ProgramSource
from mixmix.models.sources.python_callables import PythonSource
from mixmix.models.sources.source import Source
from mixmix.models.sources.timm_models import TimmSource
from mixmix.models.sources.torchvision_models import TorchvisionSource
from mixmix.models.spec import ModelSpec

__all__ = [
    "complete",
    "describe_references",
    "find_source",
    "sources",
    "split_reference",
]

_BUILT_IN: dict[str, Source] = {
    "timm": TimmSource(),
    "torchvision": TorchvisionSource(),
    "hf": HuggingFaceSource(),
    "imagenet": ImagenetSource(),
    "python": PythonSource(),
}
_BY_SUFFIX: dict[str, Source] = {".onnx": OnnxSource(), ".pt2": ProgramSource()}
_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_REQUIRED = ("input_shape", "mean", "std", "num_classes")
# As options, for ImageNet.
_USUAL = {
    "input_shape": "3,224,224",
    "mean": "0.485,0.456,0.406",
    "std": "0.229,0.224,0.225",
    "num_classes": "1000",
}


@cache
def sources() -> Mapping[str, Source]:
    """The sources by the kind of their references: those of mixmix, then those of other packages.

    An entry point of the group ``mixmix.sources`` is named after its kind and loads a subclass of
    ``Source``, which is called without arguments.

    Raises:
        InputError: if an entry point cannot be loaded, or is not a source.
    """
    found = dict(_BUILT_IN)
    for name, make in load_entry_points("mixmix.sources").items():
        source = make()
        if not isinstance(source, Source):
            raise InputError(
                f"the entry point {name!r} gives {type(source).__name__}, expected a "
                "mixmix.models.sources.Source"
            )
        found.setdefault(name, source)
    return found


def describe_references() -> str:
    """The forms of references, for error messages."""
    kinds = ", ".join(f"{kind}:{source.pattern}" for kind, source in sources().items())
    return f"{kinds}, or an .onnx or .pt2 file"


def find_source(source: str) -> tuple[Source, str] | None:
    """The source in ``ModelSpec.source`` and the name after its kind; None if it is unknown."""
    kind, colon, rest = source.partition(":")
    if colon and kind in sources():
        return sources()[kind], rest
    suffix = Path(source).suffix
    return (_BY_SUFFIX[suffix], source) if suffix in _BY_SUFFIX else None


def split_reference(text: str) -> tuple[str, str | None]:
    """Split ``SOURCE@FILE`` if the file has a suffix of weights."""
    source, _, weights = text.rpartition("@")
    is_file = weights.partition("#")[0].endswith(_WEIGHTS)
    return (source, weights) if source and is_file else (text, None)


def complete(content: Mapping[str, Any], *, name: str = "") -> ModelSpec:
    """A spec from the caller's fields and, for the others, from the model's source.

    Args:
        content: fields of ``ModelSpec``, ``source`` among them.
        name: of the model, if neither has one.

    Raises:
        InputError: if there is no such model, or neither has a required field.
    """
    source = str(content["source"])
    found = find_source(source)
    assert found is not None
    with translate_errors(f"{source} does not describe its network as expected"):
        known = found[0].describe(found[1])
    given = {key: value for key, value in content.items() if value is not None}
    weights = given.get("weights")
    dropped: set[str] = set()
    if weights is not None:
        if not isinstance(weights, str):
            raise InputError(f"{source}: weights must be the path of a file, got {weights!r}")
        if found[0].has_own_weights:
            raise InputError(f"{source} contains its own weights; leave out {weights}")
        dropped |= {"license", "top1"}
    number = given.get("num_classes")
    if number is not None and number != known.get("num_classes", number):
        dropped |= {"classes", "label_set"}
    shape, usual = given.get("input_shape"), known.get("input_shape")
    if isinstance(shape, list | tuple) and len(shape) == 3 and usual:
        if shape[0] != usual[0]:
            dropped |= {"mean", "std"}
        if tuple(shape[1:]) != tuple(usual[1:]):
            dropped |= {"resize"}
    default = name or (Path(source).stem if found[0].has_own_weights else source)
    known = {key: value for key, value in known.items() if key not in dropped}
    merged = {"name": default} | known | given
    missing = tuple(key for key in _REQUIRED if key not in merged)
    if missing and merged.keys() <= {field.name for field in fields(ModelSpec)}:
        options = " ".join(f"--{key.replace('_', '-')} {_USUAL[key]}" for key in missing)
        raise MissingFieldsError(
            f"{source} does not specify its {', '.join(missing)}; add the values used in "
            f"training, for ImageNet usually {options} (in Python {missing[0]}=...), or write a "
            f'spec file (.toml) with source = "{source}" and {" and ".join(missing)}',
            missing,
        )
    return ModelSpec.from_dict(merged)
