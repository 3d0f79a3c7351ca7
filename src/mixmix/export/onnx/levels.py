"""Values behind the quantizers of an ONNX file."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from mixmix.export.levels import FileLevels
from mixmix.runtimes.onnx_nodes import constant, producer
from mixmix.runtimes.session import session_with_values

__all__ = ["onnx_levels"]


def onnx_levels(content: bytes, images: Tensor) -> tuple[list[FileLevels], Tensor]:
    """The values behind every quantizer of activations, and the logits (N, K).

    The file runs as it is written, without ONNX Runtime's rewrites and integer kernels.

    Args:
        content: of the file.
        images: normalized (N, C, H, W).
    """
    proto = onnx.load_from_string(content)
    grids = {}
    for node in ir.from_proto(proto).graph:
        quantizer = producer(node, 0) if node.op_type == "DequantizeLinear" else None
        scale, zero_point = (
            constant(node.inputs[index]) if len(node.inputs) > index else None for index in (1, 2)
        )
        if quantizer is None or scale is None or zero_point is None or scale.size != 1:
            continue
        grids[str(node.outputs[0].name)] = (float(scale), int(zero_point))
    names = [proto.graph.output[0].name, *grids]
    found = session_with_values(proto, names).outputs(images, names)
    logits, *values = map(torch.from_numpy, found)
    levels = zip(grids.values(), values, strict=True)
    return [FileLevels(*grid, value) for grid, value in levels], logits
