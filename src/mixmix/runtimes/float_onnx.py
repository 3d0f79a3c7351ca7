"""Networks as ONNX models, written by PyTorch's exporter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mixmix.errors import ExportError, first_line, raise_if_out_of_memory
from mixmix.runtime.quiet import quiet
from mixmix.runtimes.exportable import Exportable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["OPSET", "float_onnx", "float_onnx_bytes"]

OPSET = 21


def float_onnx(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    name: str,
    translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> ir.Model:
    """A network as an ONNX model of opset 21, from ``images`` (N, C, H, W) to ``logits`` (N, K).

    Args:
        module: on the CPU, in eval mode; it takes normalized images.
        input_shape: (C, H, W).
        name: of the network, for messages.
        translations: from custom operators to functions of onnxscript.

    Raises:
        ExportError: if PyTorch cannot export the network.
    """
    with quiet(), Exportable():
        try:
            program = torch.onnx.export(
                module,
                (torch.zeros(2, *input_shape),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                custom_translation_table=dict(translations or {}),
                verbose=False,
            )
            assert program is not None
            return program.model
        except Exception as error:  # each stage of the exporter raises its own kinds
            raise_if_out_of_memory(error)
            cause: BaseException = error
            while cause.__cause__ is not None:  # the last one knows the reason
                cause = cause.__cause__
            raise ExportError(
                f"{name} cannot be exported to ONNX: {type(cause).__name__}: {first_line(cause)}"
            ) from error


def float_onnx_bytes(module: nn.Module, input_shape: tuple[int, int, int], *, name: str) -> bytes:
    """``float_onnx`` of a copy on the CPU in eval mode, as the bytes of a file."""
    import onnx_ir as ir  # takes long to import

    model = float_onnx(copy.deepcopy(module).cpu().eval(), input_shape, name=name)
    return bytes(ir.to_proto(model).SerializeToString())
