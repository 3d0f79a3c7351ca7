"""Float networks in ONNX files, converted to PyTorch by onnx2torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from mixmix.errors import DataError, InputError, first_line
from mixmix.models.sources.graphs import check_any_batch, describe_shapes, fields_of_notes
from mixmix.models.sources.onnx_layers import products_as_layers
from mixmix.models.sources.onnx_shapes import settle_shapes
from mixmix.models.sources.source import Source, require
from mixmix.models.spec import ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["OnnxSource"]

_TOLERANCE = 1e-3


class OnnxSource(Source):
    """The path of an ``.onnx`` file that takes one batch of images."""

    adapts = False
    has_own_weights = True

    def describe(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        model = _read(Path(name))
        images, logits = _ends(name, model)
        known = fields_of_notes(name, model.metadata_props)
        return known | describe_shapes(*(tuple(value.shape or ()) for value in (images, logits)))

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        raise InputError(
            f"{spec.name}: {name} is a trained network; fresh weights need an architecture, such "
            "as timm:NAME or python:MODULE:CALLABLE"
        )

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        from mixmix.models.sources.onnx_lowering import lowered

        original = _read(Path(name))
        batch = _fixed_batch(_ends(name, original)[0])
        converter = require("onnx2torch", name, "'mixmix[onnx2torch]'")
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


def _read(path: Path) -> ir.Model:
    import onnx
    import onnx_ir as ir

    if not path.is_file():
        raise InputError(f"no ONNX file at {path}")
    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(proto)
        return ir.from_proto(proto)
    except Exception as error:  # of protobuf, of the checker, of weights in a second file
        raise DataError(f"{path} is no valid ONNX model: {first_line(error)}") from error


def _ends(name: str, model: ir.Model) -> tuple[ir.Value, ir.Value]:
    """The input that is no weight, and the output; one of each."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    outputs = model.graph.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{name} takes {len(inputs)} inputs and gives {len(outputs)} outputs, expected one "
            "batch of images and its logits"
        )
    return inputs[0], outputs[0]


def _drop_softmax(model: ir.Model) -> bool:
    """Let a file give logits, in place, where it ends in their softmax; whether it did."""
    (output,) = model.graph.outputs
    last = output.producer()
    if last is None or last.op_type != "Softmax" or output.shape is None or len(output.shape) != 2:
        return False
    if last.attributes.get_int("axis", -1) not in (1, -1):
        return False
    (logits,) = last.inputs
    assert logits is not None
    logits.type, logits.shape = output.type, output.shape
    model.graph.outputs[0] = logits
    model.graph.remove(last, safe=True)
    return True


def _fixed_batch(images: ir.Value) -> int | None:
    """The number of images that a file was written for, unless it takes any."""
    size = images.shape[0] if images.shape else None
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
