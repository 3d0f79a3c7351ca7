"""Kernels that ONNX Runtime runs for a file: integer ones, or float ones between conversions."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import onnx
import onnxruntime
import torch

from mixmix.errors import InputError
from mixmix.runtimes.session import OnnxSession

__all__ = ["KernelProfile", "NodeProfile", "kernel_profile"]

_INTEGERS = ("int4", "uint4", "int8", "uint8", "int16", "uint16", "int32")
# ONNX Runtime's kernels of layers, with the position of the weights among their inputs.
_WEIGHT_INPUT = {
    "Conv": 1,
    "FusedConv": 1,
    "NhwcFusedConv": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
    "Gemm": 1,
    "FusedGemm": 1,
    "QGemm": 3,
    "MatMul": 1,
    "FusedMatMul": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "MatMulNBits": 1,
    "QLinearMatMul": 3,
}
# Position of the data in kernels where it is not the first input.
_DATA_INPUT = {"QLinearConcat": 2}


@dataclass(frozen=True)
class NodeProfile:
    """A node of the graph that ONNX Runtime optimized.

    Attributes:
        name: of the node.
        kind: its operator, such as ``QLinearConv``.
        is_integer: whether it computes on integers; false for quantizers and dequantizers.
        macs: multiply-accumulate operations in a run, including the padding of channels in float
            kernels; 0 unless it is a convolution or product.
        time_ms: median time in a run.
    """

    name: str
    kind: str
    is_integer: bool
    macs: int
    time_ms: float


@dataclass(frozen=True)
class KernelProfile:
    """The nodes that ONNX Runtime runs for a file, in order of execution."""

    nodes: tuple[NodeProfile, ...]

    @property
    def layers(self) -> tuple[NodeProfile, ...]:
        """The convolutions and products."""
        return tuple(node for node in self.nodes if node.macs)

    @property
    def float_layers(self) -> tuple[NodeProfile, ...]:
        """The layers that run in float kernels."""
        return tuple(node for node in self.layers if not node.is_integer)

    @property
    def integer_mac_fraction(self) -> float:
        """Fraction of multiply-accumulate operations in integer kernels, in [0, 1]."""
        return _fraction(self.nodes, "macs")

    @property
    def integer_time_fraction(self) -> float:
        """Fraction of the time in integer kernels, in [0, 1]."""
        return _fraction(self.nodes, "time_ms")


def kernel_profile(path: str | Path, *, batch_size: int = 1, runs: int = 5) -> KernelProfile:
    """Profile an ONNX file in ONNX Runtime, optimized and on one thread.

    Quantized files contain float operators between quantizers. ONNX Runtime replaces them by
    integer kernels where it has any; elsewhere, they are slower than the float model.

    Args:
        path: of a file whose first axis is the batch.
        batch_size: images in a run.
        runs: number of runs; times are their medians.

    Raises:
        InputError: if a number is not positive, the file does not exist, or the size of its images
            is not fixed.
        DataError: if it is not an ONNX model.
    """
    if batch_size < 1 or runs < 1:
        raise InputError(f"batch_size and runs must be at least 1, got {batch_size} and {runs}")
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(optimized)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = OnnxSession(path, threads=1, options=options)
        images = torch.zeros(session.batch_shape(batch_size))
        for _ in range(runs + 1):  # the first run allocates memory
            session.run(images)
        events = json.loads(session.end_profiling().read_text())
        graph = onnx.load(optimized).graph
    return KernelProfile(_nodes(graph, events))


def _nodes(graph: onnx.GraphProto, events: list[dict[str, Any]]) -> tuple[NodeProfile, ...]:
    suffix = "_kernel_time"
    by_name: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(suffix):
            by_name.setdefault(event["name"].removesuffix(suffix), []).append(event)
    # The profile does not list weights that kernels repack, but the graph does.
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    weights = {
        node.name: shapes.get(node.input[_WEIGHT_INPUT[node.op_type]], ())
        for node in graph.node
        if node.op_type in _WEIGHT_INPUT
    }
    nodes = []
    for name, runs in by_name.items():
        details = runs[-1]["args"]
        kind = details["op_name"]
        (input_type, _), (_, output_shape) = (
            _first(details["input_type_shape"][_DATA_INPUT.get(kind, 0) :]),
            _first(details["output_type_shape"]),
        )
        nodes.append(
            NodeProfile(
                name=name,
                kind=kind,
                is_integer=input_type in _INTEGERS and kind != "DequantizeLinear",
                macs=_macs(kind, weights.get(name) or _weight_shape(details), output_shape),
                time_ms=median(run["dur"] for run in runs[1:] or runs) / 1000,
            )
        )
    return tuple(nodes)


def _first(types_and_shapes: list[dict[str, list[int]]]) -> tuple[str, list[int]]:
    """Type and shape of the first of a node's inputs or outputs."""
    return next(iter(types_and_shapes[0].items())) if types_and_shapes else ("", [])


def _weight_shape(details: dict[str, Any]) -> tuple[int, ...]:
    """The shape of weights that are computed at run time, such as 4-bit weights."""
    position, inputs = _WEIGHT_INPUT.get(details["op_name"], 0), details["input_type_shape"]
    return tuple(_first(inputs[position:])[1])


def _macs(kind: str, weight: tuple[int, ...], output: list[int]) -> int:
    if kind not in _WEIGHT_INPUT or not weight:
        return 0
    # Products per output: I * h * w for the weight (O, I, h, w) of a convolution. A matrix may be
    # transposed, so divide its size by the output's last axis. In attention there is one matrix for
    # each head and image; 4-bit matrices are divided into blocks.
    if "Conv" in kind:
        length = math.prod(weight[1:])
    else:
        matrix = weight if kind == "MatMulNBits" else weight[-2:]
        length = math.prod(matrix) // output[-1]
    return math.prod(output) * length


def _fraction(nodes: tuple[NodeProfile, ...], quantity: str) -> float:
    total = sum(getattr(node, quantity) for node in nodes)
    integer = sum(getattr(node, quantity) for node in nodes if node.is_integer)
    return integer / total if total else 0.0
