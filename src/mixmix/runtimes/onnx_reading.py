"""Reading ONNX files from anywhere: external data, sizes and nesting are checked first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import external_data_helper as external

from mixmix._display import similar_file
from mixmix.errors import DataError, InputError, translate_errors

__all__ = ["external_files", "read_onnx"]

# Of protobuf.
_LARGEST_FILE = 2**31
# Elements of one value, and nodes after functions are written out.
_MOST_ELEMENTS, _MOST_NODES = 2**28, 10**6


def read_onnx(path: Path) -> onnx.ModelProto:
    """A model with its external data, which must lie beside the file.

    Raises:
        InputError: if there is no such file.
        DataError: if it is damaged, refers to other files, or has values of absurd sizes.
    """
    if not path.is_file():
        hint = similar_file(path) or "; pass the path of the export"
        raise InputError(f"no ONNX file at {path}{hint}")
    if path.stat().st_size >= _LARGEST_FILE:
        raise DataError(f"{path} has 2 GiB or more; store its weights as external data")
    with translate_errors(f"{path} is no valid ONNX model", into=DataError):
        model = onnx.load(str(path), load_external_data=False)
        _check_functions(model)
        for tensor in _tensors(model):
            if tensor.HasField("data_location") and external.uses_external_data(tensor):
                _check_external(tensor, path.parent)
        external.load_external_data_for_model(model, str(path.parent))
        if model.graph.sparse_initializer:
            raise DataError(f"{path} has sparse weights; export it with dense ones")
        _check_sizes(model)
        if model.ByteSize() < _LARGEST_FILE:
            onnx.checker.check_model(model)
        if any(n.op_type == "BatchNormalization" and len(n.output) > 3 for n in model.graph.node):
            # As up to opset 13; ONNX Runtime may crash.
            raise DataError("it has BatchNormalization for training; export it in eval mode")
    return model


def external_files(path: Path) -> set[Path]:
    """The files beside an ONNX file that hold its weights; none if it cannot be read."""
    try:
        tensors = list(_tensors(onnx.load(str(path), load_external_data=False)))
    except Exception:  # of protobuf; whatever runs the file says what is wrong with it
        return set()
    outside = [each for each in tensors if external.uses_external_data(each)]
    names = {
        entry.value for each in outside for entry in each.external_data if entry.key == "location"
    }
    return {path.parent / name for name in names if (path.parent / name).is_file()}


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    graphs: list[Iterable[onnx.NodeProto]] = [model.graph.node]
    graphs += [function.node for function in model.functions]
    while graphs:
        for node in graphs.pop():
            for attribute in node.attribute:
                yield from (*attribute.tensors, *[attribute.t] * attribute.HasField("t"))
                for inner in (*attribute.graphs, *[attribute.g] * attribute.HasField("g")):
                    yield from inner.initializer
                    graphs.append(inner.node)


def _check_external(tensor: onnx.TensorProto, folder: Path) -> None:
    """External data is a regular file beside the model that holds what the tensor asks for."""
    about = {entry.key: entry.value for entry in tensor.external_data}
    location = about.get("location", "")
    parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
    is_outside = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    if not location or is_outside or ".." in parts:
        raise DataError(f"its weights are in {location!r}, expected a file beside it")
    path = folder / location
    links = [path, *(folder / parent for parent in PurePosixPath(location).parents)][:-1]
    if any(each.is_symlink() for each in links) or not path.is_file():
        raise DataError(f"its weights are in {location!r}, which is no regular file beside it")
    offset, length = int(about.get("offset", 0)), int(about.get("length", 0))
    size = path.stat().st_size
    if offset < 0 or length < 0 or offset + length > size:
        raise DataError(f"its weights need more bytes than {location!r} has ({size:,})")


def _check_functions(model: onnx.ModelProto) -> None:
    """Functions that call one another must not grow without bound."""
    sizes: dict[tuple[str, str], float] = {}
    bodies = {(each.domain, each.name): each.node for each in model.functions}
    for _ in bodies:  # of the innermost first
        before = dict(sizes)
        for key, nodes in bodies.items():
            calls = [(node.domain, node.op_type) for node in nodes]
            if key not in sizes and all(call in sizes for call in calls if call in bodies):
                sizes[key] = sum(sizes.get(call, 1) for call in calls)
        if sizes == before:
            raise DataError("its functions call themselves")
    total = sum(sizes.get((node.domain, node.op_type), 1) for node in model.graph.node)
    if total > _MOST_NODES:
        raise DataError(f"it has {total:.0g} nodes when its functions are written out")


def _check_sizes(model: onnx.ModelProto) -> None:
    """Values that a graph makes from nothing, such as by ConstantOfShape, must fit in memory."""
    for tensor in _tensors(model):
        _check_elements(tensor.dims)
    if model.ByteSize() >= _LARGEST_FILE:
        return
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in (*graph.value_info, *graph.input, *graph.output):
        _check_elements([dim.dim_value for dim in value.type.tensor_type.shape.dim])


def _check_elements(sizes: Iterable[int]) -> None:
    if math.prod(max(1, size) for size in sizes) > _MOST_ELEMENTS:
        raise DataError(
            f"it has a value of the size {tuple(sizes)}, which is more than networks need"
        )
