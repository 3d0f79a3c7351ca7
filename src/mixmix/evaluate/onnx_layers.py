"""Outputs of the layers of ONNX files, quantized or not, of any exporter."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from mixmix.evaluate.layer_outputs import Grid, Layer, LayerOutputs, plain_name
from mixmix.models.model import normalize
from mixmix.models.spec import ModelSpec
from mixmix.runtimes.onnx_nodes import Array
from mixmix.runtimes.onnx_reading import read_onnx
from mixmix.runtimes.session import session_with_values

__all__ = ["OnnxLayers"]

# Position of the weights among the inputs of layers.
_WEIGHTS = {
    "Conv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "MatMulNBits": 1,
    "ConvInteger": 1,
    "MatMulInteger": 1,
}
# Positions of weights' scale and zero point, and of those of the output, in integer layers.
_GRIDS = {"QLinearConv": (4, 5, 6, 7), "QLinearMatMul": (4, 5, 6, 7), "QGemm": (4, 5, 7, 8)}
_BEHIND = ("BatchNormalization", "Relu", "Clip", "Identity", "QuantizeLinear", "DequantizeLinear")
_WITH_CONSTANT = ("Add", "Sub", "Max", "Min")
_VIEWS = ("Transpose", "Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze")
_INTEGER = re.compile(r"(u?)int(\d+)")


class OnnxLayers(LayerOutputs):
    """An ONNX file that returns the outputs of its layers, run as it is written.

    Args:
        path: of the file.
        spec: of the network.
    """

    def __init__(self, path: str | Path, spec: ModelSpec) -> None:
        self.spec = spec
        model = read_onnx(Path(path))
        graph = _Graph(model.graph)
        self.layers, self._grids = [], []
        ends: list[str] = []
        for node in model.graph.node:
            layer = graph.layer(node)
            if layer is not None:
                self.layers.append(layer)
                ends.append(graph.end(node))
                self._grids.append(graph.grid_behind(node) if ends[-1] == node.output[0] else None)
        self._ends = ends
        self._session = session_with_values(model, ends)
        self._output = model.graph.output[0].name

    def run(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        size = self._session.input_shape[0] if self._session.input_shape else None
        parts = images.split(size) if isinstance(size, int) and size > 0 else (images,)
        found = [self._run(part) for part in parts if len(part) == len(parts[0])]
        layers = [torch.cat(each) for each in zip(*(part[0] for part in found), strict=True)]
        return layers, torch.cat([part[1] for part in found])

    def _run(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        names = list(dict.fromkeys([self._output, *self._ends]))
        arrays = self._session.outputs(self._session.oriented(normalize(images, self.spec)), names)
        values = dict(zip(names, arrays, strict=True))
        layers = []
        for end, grid in zip(self._ends, self._grids, strict=True):
            array = np.asarray(values[end], dtype=np.float32)
            if grid is not None and values[end].dtype.kind in "iu":
                array = (array - grid[1]) * grid[0]
            layers.append(torch.from_numpy(array))
        return layers, torch.from_numpy(np.asarray(values[self._output], dtype=np.float32))


class _Graph:
    """Who computes and reads the values of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                self._constants[node.output[0]] = node.attribute[0].t
        self._producers = {output: node for node in graph.node for output in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {value.name for value in graph.output}

    def layer(self, node: onnx.NodeProto) -> Layer | None:
        """The layer that a node is; None for other nodes and products of activations."""
        place = _WEIGHTS.get(node.op_type)
        if place is None or len(node.input) <= place:
            return None
        name, scale, zero_point, offset = self._weight(node, place)
        tensor = self._constants.get(name)
        if tensor is None:
            return None
        values = numpy_helper.to_array(tensor)
        weight = values.astype(np.float32)
        is_integer = tensor.data_type not in (
            *(onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16),
            onnx.TensorProto.DOUBLE,
        )
        if is_integer and scale is not None:
            weight = _dequantized(weight, scale, zero_point)
        if offset is not None:
            weight = weight + offset
        own = plain_name(name)
        label = own if "::" not in own and own else plain_name(node.name) or node.output[0]
        aliases = (own, plain_name(node.name), plain_name(node.output[0]))
        return Layer(
            label,
            aliases,
            torch.from_numpy(np.ascontiguousarray(weight)),
            _bits(values) if is_integer else None,
            self._grid(node),
        )

    def end(self, node: onnx.NodeProto) -> str:
        """The value behind the operations that belong to a layer."""
        name = str(node.output[0])
        while name not in self._outputs:
            readers = self._readers.get(name, [])
            kinds = {each.op_type for each in readers}
            if len(readers) != 1 and not (
                len(kinds) == 1 and kinds <= {"DequantizeLinear", "QuantizeLinear"}
            ):
                break
            reader = readers[0]
            with_constant = reader.op_type in _WITH_CONSTANT and any(
                self._constant(each) is not None for each in reader.input
            )
            if not (with_constant or (reader.op_type in _BEHIND and reader.input[0] == name)):
                break
            name = str(reader.output[0])
        producer = self._producers.get(name)
        if producer is not None and producer.op_type == "QuantizeLinear":
            return str(producer.input[0])  # a file that ends in integers
        return name

    def grid_behind(self, node: onnx.NodeProto) -> tuple[float, float] | None:
        """Scale and zero point of the output of an integer layer."""
        places = _GRIDS.get(node.op_type)
        if places is None or len(node.input) <= places[3]:
            return None
        scale, zero_point = (self._constant(node.input[place]) for place in places[2:])
        if scale is None or zero_point is None or scale.size != 1:
            return None
        return float(scale.reshape(())), float(zero_point.reshape(()))

    def _weight(
        self, node: onnx.NodeProto, place: int
    ) -> tuple[str, Array | None, Array | None, Array | None]:
        """The constant that weights are made of, its scale and zero point, and what is added."""
        name, scale, zero_point, offset = str(node.input[place]), None, None, None
        if node.op_type in _GRIDS:
            scale, zero_point = (
                self._constant(node.input[each]) for each in _GRIDS[node.op_type][:2]
            )
        while name not in self._constants and name in self._producers:
            above = self._producers[name]
            if above.op_type == "DequantizeLinear":
                scale = self._constant(above.input[1])
                zero_point = self._constant(above.input[2]) if len(above.input) > 2 else None
            elif above.op_type == "Add" and offset is None:  # weights with levels of half a step
                offset = self._value(above.input[1])
                if offset is None:
                    break
            elif above.op_type not in (*_VIEWS, "QuantizeLinear"):
                break
            name = str(above.input[0])
        return name, scale, zero_point, offset

    def _value(self, name: str) -> Array | None:
        """What a product of constants, or of dequantized ones, is."""
        above = self._producers.get(name)
        if name in self._constants or above is None:
            return self._constant(name)
        if above.op_type not in ("Mul", "DequantizeLinear"):
            return None
        values = [self._value(each) for each in above.input]
        if any(each is None for each in values):
            return None
        first, second, *others = (np.asarray(each, dtype=np.float32) for each in values)
        if above.op_type == "Mul":
            return np.asarray(first * second)
        return _dequantized(first, second, others[0] if others else None)

    def _grid(self, node: onnx.NodeProto) -> Grid | None:
        """The quantization of the input of a layer."""
        if node.op_type in _GRIDS:
            return self._grid_of(node.input[1], node.input[2])
        name = str(node.input[0])
        while (above := self._producers.get(name)) is not None:
            if above.op_type == "DequantizeLinear":
                grid = self._grid_of(*above.input[1:3]) if len(above.input) > 2 else None
                return grid and self._narrowed(grid, str(above.input[0]))
            if above.op_type not in _VIEWS:
                return None
            name = str(above.input[0])
        return None

    def _narrowed(self, grid: Grid, integers: str) -> Grid:
        """The levels that are left of a grid by a maximum before it, as of 4 bits in bytes."""
        quantizer = self._producers.get(integers)
        bound = self._producers.get(quantizer.input[0]) if quantizer is not None else None
        if bound is None or bound.op_type not in ("Min", "Clip"):
            return grid
        limits = [self._constant(each) for each in bound.input[1:]]
        if not limits or limits[-1] is None or limits[-1].size != 1:
            return grid
        high = round(float(limits[-1].reshape(())) / grid.scale) + grid.zero_point
        return grid._replace(high=min(grid.high, high)) if high > grid.low else grid

    def _grid_of(self, scale: str, zero_point: str) -> Grid | None:
        size, zero = self._constant(scale), self._constants.get(zero_point)
        if size is None or zero is None or size.size != 1:
            return None
        match = _INTEGER.fullmatch(onnx.TensorProto.DataType.Name(zero.data_type).lower())
        if match is None:
            return None
        bits = int(match[2])
        low = 0 if match[1] else -(2 ** (bits - 1))
        middle = int(numpy_helper.to_array(zero).reshape(()).astype(np.int64))
        return Grid(float(size.reshape(())), middle, low, low + 2**bits - 1)

    def _constant(self, name: str) -> Array | None:
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)


def _dequantized(values: Array, scale: Array, zero_point: Array | None) -> Array:
    """Floats of integers with one grid, or one for each output channel."""
    zeros = np.zeros_like(scale) if zero_point is None else zero_point.astype(np.float32)
    if scale.size > 1 and scale.ndim == 1:
        axis = next((i for i, size in enumerate(values.shape) if size == scale.size), None)
        if axis is None:
            return values
        shape = [1] * values.ndim
        shape[axis] = scale.size
        scale, zeros = scale.reshape(shape), zeros.reshape(shape)
    elif scale.size > 1:
        return values  # blocks
    return np.asarray((values - zeros) * scale, dtype=np.float32)


def _bits(values: Array) -> int:
    """The fewest bits that have as many levels as the integers of a channel span."""
    rows = values.astype(np.int64).reshape(len(values), -1)
    of_channels = (rows, rows.T) if values.ndim == 2 else (rows,)
    span = min(int((each.max(1) - each.min(1)).max()) for each in of_channels)
    return max(2, span.bit_length())
