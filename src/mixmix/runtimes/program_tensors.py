"""Weights and constants of exported programs: plain bytes with a type, a shape and strides."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from mixmix.errors import DataError
from mixmix.runtime.archives import StoredArchive
from mixmix.runtimes.program_fields import fields, integer, name_of_tensor, options, text

__all__ = ["DTYPES", "register_tensors", "tensors_of"]

# Numbers of ScalarType in PyTorch's schema.
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_STRIDED = 7
# Expanded tensors may have more elements than their bytes.
_EXPANDED = 2**20
# Modules of graphs have these attributes already.
_TAKEN = frozenset(dir(fx.GraphModule)) | frozenset(vars(nn.Module()))


def tensors_of(archive: StoredArchive) -> dict[str, Tensor]:
    """Weights and constants by their qualified names; those of one entry share memory.

    Raises:
        DataError: if one is no plain tensor, or does not fit its bytes.
    """
    found: dict[str, Tensor] = {}
    entries: dict[str, bytearray] = {}
    for folder in ("weights", "constants"):
        content = json.loads(archive.read(f"data/{folder}/model_{folder}_config.json"))
        for name, entry in options(fields(content, "config")["config"], "config").items():
            config = fields(entry, "path_name", "use_pickle", "tensor_meta", "is_param")
            path = f"data/{folder}/{text(config['path_name'])}"
            is_plain = path.rpartition("/")[2].startswith(("weight_", "tensor_"))
            if config["use_pickle"] is not False or not is_plain:
                raise DataError(f"the pickled object {name[:80]!r}")
            if path not in entries:
                entries[path] = bytearray(archive.read(path))
            tensor = _tensor(entries[path], config["tensor_meta"], name)
            is_param = config["is_param"] is True and tensor.is_floating_point()
            found[name_of_tensor(name)] = nn.Parameter(tensor, False) if is_param else tensor
    return found


def _tensor(content: bytearray, meta: Any, name: str) -> Tensor:
    meta = fields(
        meta, "dtype", "sizes", "requires_grad", "device", "strides", "storage_offset", "layout"
    )
    dtype = DTYPES.get(meta["dtype"]) if isinstance(meta["dtype"], int) else None
    if dtype is None or meta["layout"] != _STRIDED:
        raise DataError(f"the tensor {name[:80]!r} of type {meta['dtype']!r}")
    sizes, strides = tuple(_sizes(meta["sizes"])), tuple(_sizes(meta["strides"]))
    (offset,) = _sizes([meta["storage_offset"]])
    count, last = math.prod(sizes), offset
    last += sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    stored = len(content) // dtype.itemsize
    if count == 0:
        return torch.zeros(sizes, dtype=dtype)
    if len(content) % dtype.itemsize or last >= stored or count > max(stored, _EXPANDED):
        raise DataError(f"the tensor {name[:80]!r}, whose shape {sizes} does not fit its bytes")
    return torch.frombuffer(content, dtype=dtype).as_strided(sizes, strides, offset)


def _sizes(values: Any) -> Iterator[int]:
    for value in values:
        yield integer(fields(value, "as_int")["as_int"], least=0)


def register_tensors(root: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Register parameters and buffers under their qualified names.

    Raises:
        DataError: if a name is taken.
    """
    for name, tensor in tensors.items():
        parent, _, leaf = name.rpartition(".")
        module = root
        for part in filter(None, parent.split(".")):
            if part not in module._modules:
                _check_free(module, part, name)
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        _check_free(module, leaf, name)
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(leaf, tensor)
        else:
            module.register_buffer(leaf, tensor)


def _check_free(module: nn.Module, part: str, name: str) -> None:
    if part in _TAKEN or hasattr(module, part):
        raise DataError(f"a tensor of the name {name[:80]!r}, which is taken")
