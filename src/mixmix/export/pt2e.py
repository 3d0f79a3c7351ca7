"""Exported programs of PyTorch with ``quantized_decomposed`` operators.

``torch.compile`` (through torchao) and ExecuTorch replace these operators around a layer, as in
PyTorch's own PT2E quantization, by integer kernels.
"""

from __future__ import annotations

import io
import math
from typing import Any, cast

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mixmix.compress.method import Compressed
from mixmix.errors import ExportError, first_line, raise_if_out_of_memory
from mixmix.export.levels import FileLevels
from mixmix.export.notes import notes
from mixmix.export.placeholders import with_placeholders
from mixmix.graph.ops import bounds_of, has_kind, moves
from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer
from mixmix.runtime.quiet import quiet

__all__ = ["pt2e_bytes", "pt2e_levels", "pt2e_program"]

_operators: Any = torch.ops.quantized_decomposed


class _Activation(nn.Module):
    """Placeholder of a quantizer: 8-bit operators, after a clamp if it has fewer bits."""

    def __init__(self, source: QuantizedActivation) -> None:
        super().__init__()
        if source.bits > 8:
            raise ExportError(
                f"integer kernels take activations of at most 8 bits, got {source.bits}; quantize "
                "to fewer"
            )
        self.scale = float(source.scale)
        self.zero_point = int(source.zero_point)
        # A clamp, since integer kernels ignore narrower bounds of the operators.
        limits = (-self.zero_point, source.largest - self.zero_point)
        self.bounds = [limit * self.scale for limit in limits] if source.bits < 8 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.bounds is not None:
            x = torch.clamp(x, *self.bounds)
        how = (self.scale, self.zero_point, 0, 255, torch.uint8)
        dequantized: Tensor = _operators.dequantize_per_tensor(
            _operators.quantize_per_tensor(x, *how), *how
        )
        return dequantized


class _Layer(nn.Module):
    """Placeholder of a layer, with int8 weights and a dequantizer."""

    integers: Tensor
    scale: Tensor
    zero_point: Tensor
    bias: Tensor | None

    def __init__(self, source: QuantizedLayer) -> None:
        super().__init__()
        self.convolution: dict[str, Any] | None = source.convolution
        self.register_buffer("integers", source.integers)
        self.register_buffer("scale", source.scale.expand(len(source.integers)).contiguous())
        zero_point = torch.zeros(len(source.integers), dtype=torch.int64)
        if source.zero_point is not None:
            zero_point += source.zero_point
        self.register_buffer("zero_point", zero_point)
        self.register_buffer("bias", source.bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = _operators.dequantize_per_channel(
            self.integers, self.scale, self.zero_point, 0, -128, 127, torch.int8
        )
        if self.convolution is None:
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, **self.convolution)


def pt2e_program(compressed: Compressed) -> torch.export.ExportedProgram:
    """The model as an exported program with ``quantized_decomposed`` operators.

    It takes normalized images (N, C, H, W) for any N, and returns logits (N, K). For integer
    kernels on x86, import ``torchao.quantization.pt2e`` and pass ``program.module()`` through its
    ``lowering.lower_pt2e_quantized_to_x86`` before ``torch.compile``; ExecuTorch's XNNPACK
    partitioner takes the program itself.

    Raises:
        ExportError: if PyTorch cannot export the model, or activations have more than 8 bits.
    """
    model = with_placeholders(compressed.module, activation=_Activation, layer=_Layer)
    # Archives treat channels-last weights as parts of larger tensors.
    model = model.to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, *compressed.spec.input_shape)
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
            graph_module = program.module(check_guards=False)
            assert isinstance(graph_module, fx.GraphModule)
            _repeat_quantizers(graph_module)
            _merge_clamps(graph_module)
            return torch.export.export(graph_module, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:  # each stage of the exporter raises its own kinds
        raise_if_out_of_memory(error)
        raise ExportError(
            f"{compressed.spec.name} cannot be exported by PyTorch: {first_line(error)}"
        ) from error


def _repeat_quantizers(graph_module: fx.GraphModule) -> None:
    """Quantize the inputs of layers again after operations that move values, in place.

    The values do not change, and compilers look for a quantizer right before a layer.
    """
    graph = graph_module.graph
    for node in list(graph.nodes):
        if not has_kind(node, "conv2d", "linear"):
            continue
        source = node.args[0]
        while moves(source):
            source = source.all_input_nodes[0]
        if source is node.args[0] or source.target != _operators.dequantize_per_tensor.default:
            continue
        with graph.inserting_before(node):
            how = source.args[1:]
            integers = graph.call_function(
                _operators.quantize_per_tensor.default, (node.args[0], *how)
            )
            values = graph.call_function(_operators.dequantize_per_tensor.default, (integers, *how))
        node.replace_input_with(node.args[0], values)
    graph_module.recompile()


def _merge_clamps(graph_module: fx.GraphModule) -> None:
    """Merge the clamps of activation functions and of narrow quantizers, in place.

    torchao 0.18 fuses the first one with the layer, and fails at the second.
    """
    graph = graph_module.graph
    for node in list(graph.nodes):
        if not has_kind(node, "clamp"):
            continue
        inner, own = node.args[0], bounds_of(node)
        bounds = bounds_of(inner)
        if own is None or bounds is None:
            continue
        low, high = max(bounds[0], own[0]), min(bounds[1], own[1])
        if len(inner.users) == 1 and low < high:
            limits = (None if math.isinf(limit) else limit for limit in (low, high))
            node.args, node.kwargs = (inner.args[0], *limits), {}
            graph.erase_node(inner)
    graph_module.recompile()


def pt2e_bytes(compressed: Compressed) -> bytes:
    """The program as a ``.pt2`` file; see ``mixmix.export``."""
    buffer = io.BytesIO()
    torch.export.save(pt2e_program(compressed), buffer, extra_files=notes(compressed))
    return buffer.getvalue()


def pt2e_levels(content: bytes, images: Tensor) -> tuple[list[FileLevels], Tensor]:
    """The values behind every quantizer of activations in a ``.pt2`` file, and the logits (N, K).

    Args:
        content: of the file.
        images: normalized (N, C, H, W).
    """
    program = torch.export.load(io.BytesIO(content)).module(check_guards=False)
    assert isinstance(program, fx.GraphModule)
    watcher = _LevelWatcher(program)
    with torch.no_grad():
        logits: Tensor = watcher.run(images)
    return watcher.levels, logits


class _LevelWatcher(fx.Interpreter):
    """Runs a program and records the values behind its quantizers."""

    def __init__(self, program: fx.GraphModule) -> None:
        super().__init__(program)
        self.levels: list[FileLevels] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.target == _operators.dequantize_per_tensor.default:
            scale, zero_point = cast(tuple[float, int], n.args[1:3])
            self.levels.append(FileLevels(scale, zero_point, value))
        return value
