"""ONNX files with integer weights, for the integer kernels of ONNX Runtime."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common
from torch import Tensor

from mixmix.compress.method import Compressed
from mixmix.export.deployment import deployment_notes
from mixmix.export.notes import notes
from mixmix.export.onnx.biases import fit_biases
from mixmix.export.onnx.float_exactness import keep_floats_exact
from mixmix.export.onnx.integer_kernels import (
    join_quantizers,
    pool_globally,
    prepare_linear_layers,
    repeat_quantizers,
)
from mixmix.export.onnx.packing import pack_weights
from mixmix.export.onnx.signed_weights import prefer_signed_weights
from mixmix.export.onnx.translation import TRANSLATIONS, with_onnx_placeholders
from mixmix.export.onnx.two_bits import declare_two_bits
from mixmix.models.model import normalize
from mixmix.runtimes.float_onnx import float_onnx

__all__ = ["onnx_bytes"]


def onnx_bytes(compressed: Compressed, images: Tensor, *, fast: bool = False) -> bytes:
    """The model as an ONNX file; see ``mixmix.export``.

    Args:
        compressed: the model.
        images: (N, C, H, W) in [0, 1], for ``prefer_signed_weights``.
        fast: write patterns for integer kernels rather than the smallest file.

    Raises:
        ExportError: if PyTorch cannot translate the model.
    """
    spec = compressed.spec
    module = with_onnx_placeholders(compressed.module, fast=fast)
    model = float_onnx(module, spec.input_shape, name=spec.name, translations=TRANSLATIONS)
    pack_weights(model.graph)
    declare_two_bits(model)
    fit_biases(model.graph)
    pool_globally(model.graph)
    repeat_quantizers(model.graph)
    join_quantizers(model.graph)
    keep_floats_exact(model.graph)
    prefer_signed_weights(model, normalize(images, spec))
    prepare_linear_layers(model.graph)
    common.RemoveUnusedNodesPass()(model)
    _strip_notes(model)
    model.metadata_props.update(deployment_notes(compressed) | notes(compressed))
    model.producer_name, model.producer_version = "mixmix", model.metadata_props["mixmix.version"]
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def _strip_notes(model: ir.Model) -> None:
    """Remove the exporter's metadata, which contain local paths."""
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    graph = model.graph
    inner = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in [*graph.inputs, *graph.outputs, *inner]:
        value.metadata_props.clear()
        value.doc_string = None
    for value in inner:
        if not value.is_graph_output():
            value.type = value.shape = None
