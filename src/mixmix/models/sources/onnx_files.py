"""Float networks in ONNX files, converted to PyTorch by onnx2torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from mixmix.errors import DataError, InputError, first_line
from mixmix.models.sources.graphs import check_any_batch, describe_shapes, fields_of_notes
from mixmix.models.sources.onnx_layers import products_as_layers
from mixmix.models.sources.onnx_lowering import lowered
from mixmix.models.sources.onnx_shapes import settle_shapes
from mixmix.models.sources.source import Source, require
from mixmix.models.spec import ModelSpec

__all__ = ["OnnxSource"]

_SPEC = "mixmix.spec"  # where ``mixmix.export`` writes it
_TOLERANCE = 1e-3


class OnnxSource(Source):
    """The path of an ``.onnx`` file that takes one batch of images."""

    adapts = False
    has_own_weights = True

    def describe(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        model = _read(Path(name))
        inputs, outputs = _ends(name, model)
        notes = {entry.key: entry.value for entry in model.metadata_props}.get(_SPEC)
        known = {}
        if notes is not None:
            try:
                known = fields_of_notes(name, json.loads(notes))
            except ValueError as error:
                raise DataError(f"{name} holds a malformed spec: {error}") from error
        return known | describe_shapes(_sizes(inputs), _sizes(outputs))

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        raise InputError(
            f"{spec.name}: {name} is a trained network; fresh weights need an architecture, such "
            "as timm:NAME or python:MODULE:CALLABLE"
        )

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        original = _read(Path(name))
        inputs, _ = _ends(name, original)
        converter = require("onnx2torch", name, "'mixmix[onnx2torch]'")
        batch = _only_batch(inputs)
        had_softmax = _drop_softmax(original)
        try:
            model: fx.GraphModule = converter.convert(lowered(original)).eval()
            settle_shapes(model, spec.input_shape, batch)
        except Exception as error:  # of the converter, for operations that it lacks
            raise InputError(
                f"{spec.name}: {name} cannot be converted to PyTorch: {first_line(error)}; export "
                "the float network with opset 17 or lower, or use the PyTorch model itself"
            ) from error
        products_as_layers(model)
        model.eval().requires_grad_(False)
        given = nn.Sequential(model, nn.Softmax(1)) if had_softmax else model
        _check_agreement(given, spec, name, batch)
        check_any_batch(model, spec)
        return model


def _read(path: Path) -> Any:
    import onnx

    if not path.is_file():
        raise InputError(f"no ONNX file at {path}")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # of protobuf, of the checker, of weights in a second file
        raise DataError(f"{path} is no valid ONNX model: {first_line(error)}") from error
    return model


def _ends(name: str, model: Any) -> tuple[Any, Any]:
    """The inputs that are no weights, and the outputs; one of each."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    outputs = list(model.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{name} takes {len(inputs)} inputs and gives {len(outputs)} outputs, expected one "
            "batch of images and its logits"
        )
    return inputs[0], outputs[0]


def _sizes(value: Any) -> list[int | str]:
    """Sizes of a value; those left open are strings."""
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param
        for dim in value.type.tensor_type.shape.dim
    ]


def _drop_softmax(model: Any) -> bool:
    """Let a file give logits, in place, where it ends in their softmax; whether it did."""
    (output,) = model.graph.output
    last = next((node for node in model.graph.node if output.name in node.output), None)
    if last is None or last.op_type != "Softmax" or len(_sizes(output)) != 2:
        return False
    if {entry.name: entry.i for entry in last.attribute}.get("axis", -1) not in (1, -1):
        return False
    model.graph.node.remove(last)
    output.name = last.input[0]
    return True


def _only_batch(images: Any) -> int | None:
    """The number of images that a file was written for, unless it takes any."""
    size = _sizes(images)[0]
    return size if isinstance(size, int) and size > 0 else None


def _check_agreement(model: nn.Module, spec: ModelSpec, name: str, batch: int | None) -> None:
    """The converted network gives what ONNX Runtime gives of the file.

    Raises:
        InputError: if it does not.
    """
    from mixmix.runtimes.session import OnnxSession

    generator = torch.Generator().manual_seed(0)
    size = batch or 2
    images = torch.randn(size, *spec.input_shape, generator=generator)
    expected = OnnxSession(name).run(images)
    try:
        with torch.no_grad():
            found = model(images)
        error = float((found - expected).norm() / expected.norm().clamp_min(1e-12))
    except Exception as failure:  # whatever the converted operations raise
        raise InputError(
            f"{spec.name}: {name} runs in ONNX Runtime, but not in PyTorch after its conversion: "
            f"{first_line(failure)}; use the PyTorch model itself"
        ) from failure
    if not error <= _TOLERANCE:
        raise InputError(
            f"{spec.name}: {name} gives other logits in PyTorch after its conversion (by "
            f"{error:.1%}); use the PyTorch model itself"
        )
