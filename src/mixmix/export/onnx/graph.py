"""Passes over an ONNX graph: pack weights, and keep ONNX Runtime from rounding what is float."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from mixmix.graph.ops import onnx_names

__all__ = [
    "GraphView",
    "drop_unused",
    "keep_floats_exact",
    "pack_weights",
    "replace_nodes",
    "strip_notes",
]

# ONNX Runtime moves a DequantizeLinear from in front of these to behind them.
_SWAPPED = onnx_names(lambda kind: kind.swapped)
_LOWEST = float(np.finfo(np.float32).min)


def pack_weights(graph: onnx.GraphProto) -> None:
    """Replace ``Cast(int8 initializer, INT4)`` by an initializer with two weights to a byte."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        target = {attribute.name: attribute.i for attribute in node.attribute}.get("to")
        if node.op_type == "Cast" and target == TensorProto.INT4 and node.input[0] in initializers:
            integers = numpy_helper.to_array(initializers[node.input[0]]).astype(np.int8)
            graph.initializer.append(_int4_tensor(node.output[0], integers))
        else:
            kept.append(node)
    replace_nodes(graph, kept)
    drop_unused(graph)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove initializers that no node takes."""
    used = {name for node in graph.node for name in node.input}
    used |= {value.name for value in graph.output}
    alive = [copy.deepcopy(tensor) for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(alive)


def keep_floats_exact(graph: onnx.GraphProto) -> None:
    """Break a pattern that ONNX Runtime rewrites wrongly, without changing the function.

    Between a ``DequantizeLinear`` and a ``QuantizeLinear``, with ``Relu`` or ``Clip`` allowed on
    the way, ONNX Runtime (1.32, ``weight_bias_quantization.cc``) rounds the bias of every layer
    to multiples of the product of its scales, and float weights to 8 bits, whether or not an
    integer kernel follows. Where none does, the way is broken: ``Max`` and ``Min`` do what
    ``Relu`` and ``Clip`` do, and are not looked through. Where one does, they are left out, for
    the quantizer cuts off the same; ONNX Runtime finds so only if not a digit is between them.
    """
    view = GraphView(graph)
    rewritten: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            way = view.way_to_quantizer(node)
            if not way:
                continue
            first = way[0]
            if view.has_integer_kernel(node, way):
                for step in way[:-1]:
                    rewritten[step.output[0]] = []
                quantizer = copy.deepcopy(way[-1])
                quantizer.input[0] = node.output[0]
                rewritten[quantizer.output[0]] = [quantizer]
            else:
                rewritten[first.output[0]] = (
                    view.behind_guard(first)
                    if first.op_type == "QuantizeLinear"
                    else view.as_bounds(first)
                )
    nodes = []
    for node in graph.node:
        nodes += rewritten.get(node.output[0], [node])
    replace_nodes(graph, nodes)


def strip_notes(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: they hold paths of the exporting machine and cost space."""
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    model.graph.doc_string = ""
    values = [*model.graph.input, *model.graph.output, *model.graph.initializer]
    for part in [*values, *model.graph.node]:
        part.doc_string = ""
        del part.metadata_props[:]


class GraphView:
    """Who makes and who takes each value of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self.outputs = {value.name for value in graph.output}

    def storage(self, node: onnx.NodeProto | None) -> int | None:
        """The integer type of a (de)quantizer, or None for other nodes."""
        if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return None
        tensor = self.initializers.get(node.input[0])
        if tensor is None and len(node.input) > 2:
            tensor = self.initializers.get(node.input[2])
        return None if tensor is None else tensor.data_type

    def way_to_quantizer(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """From behind a layer to the only quantizer there, or nothing."""
        way: list[onnx.NodeProto] = []
        while True:
            consumers = self.consumers[node.output[0]]
            if len(consumers) != 1 or node.output[0] in self.outputs:
                return []
            node = consumers[0]
            way.append(node)
            if node.op_type == "QuantizeLinear":
                return way
            if node.op_type not in ("Relu", "Clip"):
                return []

    def quantizer_of(self, name: str) -> onnx.NodeProto | None:
        """What made a value, looking through operations that only move values."""
        source = self.producers.get(name)
        while source is not None and source.op_type in _SWAPPED:
            source = self.producers.get(source.input[0])
        return source

    def array(self, name: str) -> Any:
        """An initializer as NumPy array."""
        return numpy_helper.to_array(self.initializers[name])

    def has_integer_kernel(self, node: onnx.NodeProto, way: list[onnx.NodeProto]) -> bool:
        """Whether input, weights and output have 8 bits, and nothing narrows the output."""
        quantizer = way[-1]
        return (
            self.storage(self.quantizer_of(node.input[0])) == TensorProto.UINT8
            and self.storage(self.producers.get(node.input[1]))
            in (TensorProto.INT8, TensorProto.UINT8)
            and self.storage(quantizer) == TensorProto.UINT8
            and all(self._contains(step, quantizer) for step in way[:-1])
        )

    def _contains(self, step: onnx.NodeProto, quantizer: onnx.NodeProto) -> bool:
        """Whether the uint8 quantizer behind gives the same without this Relu or Clip.

        A limit within half a step of the last level is rounded to it.
        """
        scale, zero_point = (self._number(name, 0.0) for name in quantizer.input[1:3])
        low = self._number(step.input[1], -np.inf) if step.op_type == "Clip" else 0.0
        high = self._number(step.input[2], np.inf) if len(step.input) > 2 else np.inf
        return low < (0.5 - zero_point) * scale and (254.5 - zero_point) * scale < high

    def _number(self, name: str, absent: float) -> float:
        tensor = self.initializers.get(name)
        return absent if tensor is None else float(self.array(name))

    def as_bounds(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """A Relu or Clip as ``Max`` and ``Min``."""
        if node.op_type == "Relu":
            limits = [("Max", self._constant("zero", 0.0))]
        else:
            names = zip(("Max", "Min"), node.input[1:], strict=False)
            limits = [(bound, name) for bound, name in names if name]
        nodes = []
        value = node.input[0]
        for index, (bound, name) in enumerate(limits):
            last = index == len(limits) - 1
            output = node.output[0] if last else f"{node.output[0]}_{bound.lower()}"
            nodes.append(onnx.helper.make_node(bound, [value, name], [output]))
            value = output
        return nodes

    def behind_guard(self, quantizer: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The quantizer behind a ``Max`` that lets every number pass."""
        value = f"{quantizer.output[0]}_guarded"
        lowest = self._constant("lowest", _LOWEST)
        guard = onnx.helper.make_node("Max", [quantizer.input[0], lowest], [value])
        guarded = copy.deepcopy(quantizer)
        guarded.input[0] = value
        return [guard, guarded]

    def _constant(self, name: str, value: float) -> str:
        name = f"mixmix_{name}"
        if name not in self.initializers:
            tensor = onnx.helper.make_tensor(name, TensorProto.FLOAT, [], [value])
            self.graph.initializer.append(tensor)
            self.initializers[name] = tensor
        return name


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Give a graph these nodes, which may be its own, instead of those that it has."""
    copies = [copy.deepcopy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _int4_tensor(name: str, integers: np.ndarray[Any, np.dtype[np.int8]]) -> onnx.TensorProto:
    nibbles = integers.reshape(-1).view(np.uint8) & 0xF
    nibbles = np.append(nibbles, np.zeros(len(nibbles) % 2, np.uint8))
    return TensorProto(
        name=name,
        data_type=TensorProto.INT4,
        dims=integers.shape,
        # The first of a pair is in the low half (ONNX specification, TensorProto.raw_data).
        raw_data=(nibbles[::2] | nibbles[1::2] << 4).tobytes(),
    )
