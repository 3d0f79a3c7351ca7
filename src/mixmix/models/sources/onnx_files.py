"""Float networks in ONNX files, converted to PyTorch by onnx2torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from mixmix.errors import DataError, InputError, translate_errors
from mixmix.graph.agreement import output_error
from mixmix.models.sources.graphs import (
    GraphSource,
    check_any_batch,
    check_shape,
    check_single,
    describe_graph,
)
from mixmix.models.sources.onnx_layers import products_as_layers
from mixmix.models.sources.onnx_shapes import settle_shapes
from mixmix.models.sources.source import require
from mixmix.models.spec import ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["OnnxSource"]

_TOLERANCE = 1e-3

# Operations that only give values another shape or type.
_VIEWS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze")


class OnnxSource(GraphSource):
    """The path of an ``.onnx`` file with a network for one batch of images."""

    def describe(self, name: str) -> dict[str, Any]:
        from mixmix.models.sources.onnx_forms import channels_first

        model = _read(Path(name))
        channels_first(model)
        shapes = (tuple(value.shape or ()) for value in _ends(name, model))
        return describe_graph(name, model.metadata_props, *shapes)

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        from mixmix.models.sources.onnx_batch_norm import restore_batch_norms
        from mixmix.models.sources.onnx_forms import channels_first
        from mixmix.models.sources.onnx_lowering import lowered
        from mixmix.models.sources.onnx_names import renamed

        original = _read(Path(name))
        had_channels_last = channels_first(original)
        images = _ends(name, original)[0]
        if images.shape is not None:
            check_shape(name, tuple(images.shape), spec)
        batch = _fixed_batch(images)
        converter = require("onnx2torch", name, "'mixmix[onnx2torch]'")
        had_softmax = _drop_softmax(original)
        restore_batch_norms(original)
        with translate_errors(
            f"{spec.name}: {name} cannot be converted to PyTorch",
            "export it without this operation, simplify it (onnxsim), or use the PyTorch model",
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of differences, which are measured below
                proto = renamed(lowered(original, spec.input_shape))
                try:
                    model: fx.GraphModule = converter.convert(proto)
                except KeyError as error:  # of a name that ``renamed`` gave
                    raise ValueError(
                        "an operation needs a weight or sizes that the file computes or leaves out"
                    ) from error
            settle_shapes(model.eval(), spec.input_shape, batch)
        products_as_layers(model)
        model.eval().requires_grad_(False)
        same = nn.Sequential(model, nn.Softmax(1)) if had_softmax else model
        _check_agreement(same, spec, name, batch or 2, channels_last=had_channels_last)
        check_any_batch(model, spec)
        return model


def _read(path: Path) -> ir.Model:
    import onnx.inliner
    import onnx_ir as ir
    from onnx_ir.passes import common

    from mixmix.models.sources.onnx_forms import as_float32
    from mixmix.models.sources.onnx_names import check_operations
    from mixmix.runtimes.onnx_reading import read_onnx

    proto = read_onnx(path)
    with translate_errors(f"{path} is no valid ONNX model", into=DataError):
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        check_operations(proto, str(path))
        as_float32(proto)
        model = ir.from_proto(proto)
        common.IdentityEliminationPass()(model)
        return model


def _ends(name: str, model: ir.Model) -> tuple[ir.Value, ir.Value]:
    """The images and the logits; weights may be listed as inputs, too."""
    import onnx_ir as ir

    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    check_single(name, inputs, model.graph.outputs)
    if inputs[0].dtype == ir.DataType.UINT8:
        raise InputError(
            f"{name} takes bytes, as files with their own preprocessing do; use the file that was "
            "exported without"
        )
    return inputs[0], model.graph.outputs[0]


def _drop_softmax(model: ir.Model) -> bool:
    """Remove a softmax at the end of a graph, in place; whether there was one."""
    (output,) = model.graph.outputs
    if output.shape is None or len(output.shape) != 2:
        return False
    soft = output
    while (last := soft.producer()) is not None and last.op_type in _VIEWS:
        assert last.inputs[0] is not None
        soft = last.inputs[0]
    if last is None or last.op_type != "Softmax":
        return False
    if soft is output and last.attributes.get_int("axis", -1) not in (1, -1):
        return False
    (logits,) = last.inputs
    assert logits is not None
    if soft is output:
        logits.type, logits.shape = output.type, output.shape
        model.graph.outputs[0] = logits
    else:
        soft.replace_all_uses_with(logits)
    model.graph.remove(last, safe=True)
    return True


def _fixed_batch(images: ir.Value) -> int | None:
    """The batch size that a file was written for; None if it takes any."""
    size = images.shape[0] if images.shape else None
    return size if isinstance(size, int) and size > 0 else None


@torch.no_grad()
def _check_agreement(
    model: nn.Module, spec: ModelSpec, name: str, batch: int, *, channels_last: bool
) -> None:
    """Compare a converted network with its file in ONNX Runtime.

    Raises:
        InputError: if their outputs differ.
    """
    from mixmix.runtimes.session import OnnxSession

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *spec.input_shape, generator=generator)
    session = OnnxSession(name)
    given = images.permute(0, 2, 3, 1) if channels_last else images
    expected = torch.from_numpy(session.outputs(given)[0]).float()
    with translate_errors(
        f"{spec.name}: {name} runs in ONNX Runtime, but not in PyTorch after its conversion",
        "use the PyTorch model itself",
    ):
        found = model(images)
        error = output_error(found.double(), expected.double())
    if not (expected.isfinite().all() and found.isfinite().all()):
        raise InputError(
            f"{spec.name}: {name} returns NaN or infinite values; its weights are damaged, or too "
            "large for its precision"
        )
    if not error <= _TOLERANCE:
        raise InputError(
            f"{spec.name}: the logits of {name} differ by {error:.1%} in PyTorch after its "
            "conversion; use the PyTorch model itself"
        )
