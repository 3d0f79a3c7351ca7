"""Loads networks from references: names, spec files and specs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixmix._display import did_you_mean, printable, similar_file
from mixmix.errors import InputError, first_line, translate_errors
from mixmix.models.sources import (
    Source,
    complete,
    describe_references,
    find_source,
    sources,
    split_reference,
)
from mixmix.models.sources.misfit import explain_misfit
from mixmix.models.spec import ModelSpec
from mixmix.models.weights import load_state_dict, unwrapped_state
from mixmix.runtime.storage import read_text, sha256_of_tensors

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Of torchvision's Inception and GoogLeNet.
_AUXILIARY = ("AuxLogits", "aux1", "aux2")

_CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".safetensors")

__all__ = ["build_model", "load_model", "load_spec"]


def load_spec(reference: str | Path | ModelSpec, **fields: Any) -> ModelSpec:
    """Resolve a reference to a spec.

    Args:
        reference: ``bundled:NAME``, ``timm:NAME``, ``torchvision:NAME``, ``hf:REPOSITORY`` or
            ``imagenet:NAME``, optionally followed by ``@FILE`` for your own weights; the path of an
            ``.onnx`` or ``.pt2`` file; the path of a TOML or JSON file with fields of ``ModelSpec``
            (those that the source knows are optional); or a spec itself.
        fields: of ``ModelSpec``, to complete or override those of the reference.

    Raises:
        InputError: if it is none of these, or a required field is missing.
    """
    if isinstance(reference, ModelSpec):
        return replace(reference, **fields) if fields else reference
    if not isinstance(reference, str | Path):
        raise InputError(
            f"cannot load an object of type {type(reference).__name__}; expected "
            f"{describe_references()}, the path of a model spec, a ModelSpec, a module or a Model"
        )
    text = str(reference)
    source, weights = split_reference(text)
    if find_source(source) is not None:
        named = {} if weights is None else {"name": f"{source}@{Path(weights).stem}"}
        return complete({"source": source, "weights": weights} | named | fields, name=source)
    path = Path(text)
    if path.suffix in (".toml", ".json"):
        return _read_spec_file(path, fields)
    kind, colon, name = text.partition(":")
    near = did_you_mean(kind, sources()) if colon else ""
    if not near and path.is_file() and path.suffix.lower() in _CHECKPOINTS:
        raise InputError(
            f"{text} has weights, not the network that they are for; write its source before it, "
            f"such as python:MODULE:CALLABLE@{text} or timm:NAME@{text}"
        )
    raise InputError(
        f"{text!r} is not a model: expected {describe_references()}, or the path of a model spec "
        f"(.toml or .json){near or similar_file(path)}"
    )


def _read_spec_file(path: Path, fields: dict[str, Any]) -> ModelSpec:
    try:
        text = read_text(path)
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read the model spec {path}: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a table of ModelSpec fields")
    for key in ("weights", "source"):
        content |= {key: _beside(path, key, content[key])} if key in content else {}
    content |= fields
    try:
        if isinstance(content.get("source"), str) and find_source(content["source"]):
            return complete(content, name=path.stem)
        return ModelSpec.from_dict(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _beside(spec_file: Path, key: str, value: object) -> object:
    """Resolve a path in a spec file, which is relative to the file."""
    if not isinstance(value, str) or "\0" in value:
        raise InputError(f"{spec_file}: {key} must be text, got {value!r}")
    if key == "weights" or Path(value).suffix in (".onnx", ".pt2"):
        return str(spec_file.parent / value)
    module, _, function = value.removeprefix("python:").rpartition(":")
    if value.startswith("python:") and module:
        file = module if module.endswith(".py") else f"{module.replace('.', '/')}.py"
        own = spec_file.parent / file
        return f"python:{own}:{function}" if own.is_file() and own.parent != Path() else value
    if value.startswith(("hf:./", "hf:../")):
        return f"hf:{spec_file.parent / value.removeprefix('hf:')}"
    return value


def build_model(spec: ModelSpec) -> nn.Module:
    """Build the architecture of ``spec.source`` with new weights.

    Raises:
        InputError: if the source is unknown, or the network cannot be built.
    """
    source, name = _source_of(spec)
    with translate_errors(f"{spec.name}: {spec.source} cannot be built"):
        return source.build(name, spec)


def load_model(spec: ModelSpec) -> nn.Module:
    """Build the architecture of ``spec.source`` and load ``spec.weights`` strictly.

    Without ``spec.weights``, the pretrained weights of the source are loaded.

    Raises:
        InputError: if the source is unknown, or the weights are unavailable or do not fit.
    """
    source, name = _source_of(spec)
    with translate_errors(f"{spec.name}: {spec.weights or spec.source} cannot be loaded"):
        if spec.weights is None:
            model = source.load(name, spec)
        else:
            model = source.build(name, spec)
            _load_into(source.core(model), load_state_dict(Path(spec.weights)), spec, source)
    loaded = sha256_of_tensors(model.state_dict())
    if spec.sha256 and loaded != spec.sha256:
        raise InputError(
            f"{spec.name}: the weights of {spec.weights or spec.source} have SHA-256 "
            f"{loaded[:12]}..., the spec says {spec.sha256[:12]}...; use the right file, or leave "
            "sha256 out of the spec"
        )
    return model.eval()


def _source_of(spec: ModelSpec) -> tuple[Source, str]:
    found = find_source(spec.source)
    if found is None:
        raise InputError(
            f"{spec.name}: unknown source {spec.source!r}; expected {describe_references()}"
        )
    return found


def _is_plain(tensor: Tensor) -> bool:
    is_dense = tensor.layout == torch.strided and not tensor.is_meta
    return tensor.is_floating_point() and is_dense


def _kind(tensor: Tensor) -> str:
    """What values a tensor has that cannot be loaded."""
    if tensor.is_meta:
        return "no"
    return str(tensor.dtype if tensor.layout == torch.strided else tensor.layout)


def _drop_auxiliary_heads(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Remove heads that only training uses, in place, if a checkpoint does not have them."""
    heads = [name for name in _AUXILIARY if isinstance(getattr(model, name, None), nn.Module)]
    if heads and not any(f"{name}." in key for key in state for name in heads):
        for name in heads:
            setattr(model, name, None)
        model.aux_logits = False  # type: ignore[assignment]


def _load_into(model: nn.Module, state: dict[str, Tensor], spec: ModelSpec, source: Source) -> None:
    _drop_auxiliary_heads(model, state)
    expected = model.state_dict()
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    state = unwrapped_state(state, set(expected) - optional)
    missing = sorted(set(expected) - set(state) - optional)
    unexpected = sorted(set(state) - set(expected))
    misshapen = [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(set(state) & set(expected))
        if state[name].shape != expected[name].shape
    ]
    misshapen += [
        f"{name} holds {_kind(state[name])} values, expected floats"
        for name in sorted(set(state) & set(expected) - optional)
        if expected[name].is_floating_point() and not _is_plain(state[name])
    ]
    problems = (
        [f"missing {', '.join(missing[:4])}"] * bool(missing)
        + [f"unexpected {', '.join(unexpected[:4])}"] * bool(unexpected)
        + misshapen[:4]
    )
    if misshapen and source.adapts:
        problems += explain_misfit(expected, state, spec)
    if problems:
        raise InputError(
            f"{spec.name}: the weights in {spec.weights} do not fit {spec.source}: "
            + printable("; ".join(problems))
        )
    model.load_state_dict(state, strict=False)
