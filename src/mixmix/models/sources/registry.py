"""From what a caller writes to a source, and from what a source knows to a whole spec."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mixmix.errors import InputError
from mixmix.models.sources.hugging_face import HuggingFaceSource
from mixmix.models.sources.imagenet import ImagenetSource
from mixmix.models.sources.onnx_files import OnnxSource
from mixmix.models.sources.programs import ProgramSource
from mixmix.models.sources.python_callables import PythonSource
from mixmix.models.sources.source import Source, given_number, given_shape
from mixmix.models.sources.timm_models import TimmSource
from mixmix.models.sources.torchvision_models import TorchvisionSource
from mixmix.models.spec import ModelSpec

__all__ = [
    "complete",
    "describe_references",
    "find_source",
    "is_reference",
    "sources",
    "split_reference",
]

# Packages that bring sources of their own name them in this group of entry points.
ENTRY_POINTS = "mixmix.sources"
_BUILT_IN: dict[str, Source] = {
    "timm": TimmSource(),
    "torchvision": TorchvisionSource(),
    "hf": HuggingFaceSource(),
    "imagenet": ImagenetSource(),
    "python": PythonSource(),
}
_BY_SUFFIX: dict[str, Source] = {".onnx": OnnxSource(), ".pt2": ProgramSource()}
_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_REQUIRED = ("input_shape", "mean", "std", "num_classes")


@cache
def sources() -> Mapping[str, Source]:
    """Every kind of reference and its source: those of mixmix, then those of entry points.

    An entry point of the group ``mixmix.sources`` is named after its kind and loads a subclass of
    ``Source``, which is called without arguments.

    Raises:
        InputError: if an entry point cannot be loaded, or gives something else.
    """
    found = dict(_BUILT_IN)
    for point in entry_points(group=ENTRY_POINTS):
        try:
            source = point.load()()
        except Exception as error:  # whatever the package's own code raises
            raise InputError(
                f"the source of models {point.name!r} ({point.value}) cannot be loaded: {error}; "
                "mend or uninstall the package that registers it"
            ) from error
        if not isinstance(source, Source):
            raise InputError(
                f"the entry point {point.name!r} gives {type(source).__name__}, expected a "
                "mixmix.models.sources.Source"
            )
        found.setdefault(point.name, source)
    return found


def describe_references() -> str:
    """Everything that names a model, for messages."""
    kinds = ", ".join(f"{kind}:{source.pattern}" for kind, source in sources().items())
    return f"{kinds}, or an .onnx or .pt2 file"


def find_source(source: str) -> tuple[Source, str] | None:
    """The source that ``ModelSpec.source`` names and the rest of it; None if it names none."""
    kind, colon, rest = source.partition(":")
    if colon and kind in sources():
        return sources()[kind], rest
    suffix = Path(source).suffix
    return (_BY_SUFFIX[suffix], source) if suffix in _BY_SUFFIX else None


def is_reference(text: str) -> bool:
    """Whether it names a source, with or without a weights file."""
    return find_source(split_reference(text)[0]) is not None


def split_reference(text: str) -> tuple[str, str | None]:
    """``SOURCE@FILE`` to the source and the weights file; the file is known by its suffix."""
    source, _, weights = text.rpartition("@")
    return (source, weights) if source and weights.endswith(_WEIGHTS) else (text, None)


def complete(content: Mapping[str, Any], *, name: str = "") -> ModelSpec:
    """A spec from what the caller says, and for all else from what the model's source knows.

    Args:
        content: fields of ``ModelSpec``, ``source`` among them.
        name: of the model, if neither says one.

    Raises:
        InputError: if there is no such model, or fields are known to neither.
    """
    source = str(content["source"])
    found = find_source(source)
    assert found is not None
    known = found[0].describe(found[1], content)
    given = {key: value for key, value in content.items() if value is not None}
    weights = given.get("weights")
    if weights is not None:
        if not isinstance(weights, str):
            raise InputError(f"{source}: weights must be the path of a file, got {weights!r}")
        if found[0].has_own_weights:
            raise InputError(f"{source} holds its own weights; leave out {weights}")
        # They are said of the weights that these take the place of.
        known = {key: known[key] for key in known if key not in ("license", "top1")}
    number = given_number(given, "num_classes")
    if number is not None and number != known.get("num_classes", number):
        known = {key: known[key] for key in known if key not in ("classes", "label_set")}
    shape, usual = given_shape(given), known.get("input_shape")
    if shape is not None and usual is not None and shape[0] != usual[0]:
        known = {key: known[key] for key in known if key not in ("mean", "std")}
    default = name or (Path(source).stem if found[0].has_own_weights else source)
    merged = {"name": default} | known | given
    missing = [key for key in _REQUIRED if key not in merged]
    if missing:
        arguments = ", ".join(f"{key}=..." for key in missing)
        raise InputError(
            f"{source} does not say its {', '.join(missing)}; write load({source!r}, {arguments}), "
            f'or a spec file (.toml) with source = "{source}" and the same'
        )
    return ModelSpec.from_dict(merged)
