"""Reading ONNX files from anywhere: external data, sizes and nesting are checked first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import external_data_helper as external

from mixmix._display import similar_file
from mixmix.errors import DataError, InputError, translate_errors
from mixmix.runtimes.size_limit import MOST_ELEMENTS

__all__ = ["external_files", "read_onnx"]

# Of protobuf.
_LARGEST_FILE = 2**31
# Elements of all values, and nodes after functions are written out.
_MOST_IN_ALL, _MOST_NODES = 2**32, 10**6


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
        _check_opset(model)
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


def _check_opset(model: onnx.ModelProto) -> None:
    newest = onnx.defs.onnx_opset_version()
    for each in model.opset_import:
        if each.domain in ("", "ai.onnx") and not 1 <= each.version <= newest:
            raise DataError(
                f"it has opset {each.version}, and the installed onnx knows 1 to {newest}; export "
                "it with one of these, or install a newer onnx"
            )


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
    nodes = [*model.graph.node, *(node for each in model.functions for node in each.node)]
    for attribute in (each for node in _with_inner(nodes) for each in node.attribute):
        yield from (*attribute.tensors, *[attribute.t] * attribute.HasField("t"))
        for inner in (*attribute.graphs, *[attribute.g] * attribute.HasField("g")):
            yield from inner.initializer


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
    bodies = {(each.domain, each.name): _with_inner(each.node) for each in model.functions}
    sizes: dict[tuple[str, str], float] = {}
    while waiting := bodies.keys() - sizes.keys():  # of the innermost first
        ready = {
            key
            for key in waiting
            if all((node.domain, node.op_type) not in waiting for node in bodies[key])
        }
        if not ready:
            raise DataError("its functions call themselves")
        sizes |= {key: _written_out(bodies[key], sizes) for key in ready}
    total = _written_out(_with_inner(model.graph.node), sizes)
    if total > _MOST_NODES:
        raise DataError(f"it has {total:.0g} nodes when its functions are written out")


def _with_inner(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes, and those of their branches and loops."""
    found = list(nodes)
    for node in found:  # which grows
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *[attribute.g] * attribute.HasField("g")):
                found.extend(graph.node)
    return found


def _written_out(nodes: Iterable[onnx.NodeProto], sizes: Mapping[tuple[str, str], float]) -> float:
    return sum(sizes.get((node.domain, node.op_type), 1) for node in nodes)


def _check_sizes(model: onnx.ModelProto) -> None:
    """Values that a graph makes from nothing, such as by ConstantOfShape, must fit in memory."""
    for tensor in _tensors(model):
        _check_elements(tensor.dims)
    if model.ByteSize() >= _LARGEST_FILE:
        return
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    total = 0
    for value in (*graph.value_info, *graph.input, *graph.output):
        total += _check_elements([dim.dim_value for dim in value.type.tensor_type.shape.dim])
    if total > _MOST_IN_ALL:
        raise DataError(f"its values have {total:.1g} numbers, which is more than networks need")


def _check_elements(sizes: Iterable[int]) -> int:
    """Their product, where unknown sizes count as 1."""
    count = math.prod(max(1, size) for size in sizes)
    if count > MOST_ELEMENTS:
        raise DataError(
            f"it has a value of the size {tuple(sizes)}, which is more than networks need"
        )
    return count
