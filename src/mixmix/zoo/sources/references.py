"""From what a caller writes to a source, and from what a source knows to a whole spec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixmix.errors import InputError
from mixmix.zoo.sources.hugging_face import HuggingFaceSource
from mixmix.zoo.sources.imagenet import ImagenetSource
from mixmix.zoo.sources.onnx_files import OnnxSource
from mixmix.zoo.sources.programs import ProgramSource
from mixmix.zoo.sources.source import Source, given_number, given_shape
from mixmix.zoo.sources.timm_models import TimmSource
from mixmix.zoo.sources.torchvision_models import TorchvisionSource
from mixmix.zoo.spec import ModelSpec

__all__ = ["REFERENCES", "complete", "find_source", "is_reference", "split_reference"]

_BY_KIND: dict[str, Source] = {
    "timm": TimmSource(),
    "torchvision": TorchvisionSource(),
    "hf": HuggingFaceSource(),
    "imagenet": ImagenetSource(),
}
_BY_SUFFIX: dict[str, Source] = {".onnx": OnnxSource(), ".pt2": ProgramSource()}
_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_REQUIRED = ("input_shape", "mean", "std", "num_classes")

REFERENCES = "timm:NAME, torchvision:NAME, hf:REPOSITORY, imagenet:NAME, an .onnx or .pt2 file"


def find_source(source: str) -> tuple[Source, str] | None:
    """The source that ``ModelSpec.source`` names and the rest of it; None if it names none."""
    kind, colon, rest = source.partition(":")
    if colon and kind in _BY_KIND:
        return _BY_KIND[kind], rest
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
        raise InputError(
            f"{source} does not say its {', '.join(missing)}; a spec file (.toml) with "
            f'source = "{source}" gives {"them" if len(missing) > 1 else "it"}'
        )
    return ModelSpec.from_dict(merged)
