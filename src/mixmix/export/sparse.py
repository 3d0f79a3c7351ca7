"""State dicts of pruned networks without the zeros, as safetensors files.

For a pruned tensor, ``<name>.values`` are the nonzero weights in order, and the smaller one of
``<name>.bitmask`` (one bit for each weight) and ``<name>.gaps`` is their positions. Gaps are a byte
for each value, the number of zeros before it; a byte 255 means 255 zeros without a value after
them. Other tensors are stored as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mixmix.compress.method import Compressed
from mixmix.compress.prune.weights.sparsity import check_zeros
from mixmix.errors import DataError
from mixmix.export.notes import notes
from mixmix.runtime.storage import with_sorted_metadata

__all__ = ["load_sparse", "read_sparse", "sparse_bytes"]

_FORMAT = "mixmix-sparse/1"
_SKIP = 255


def sparse_bytes(compressed: Compressed) -> bytes:
    """The model's state dict as the content of a file; see ``load_sparse``.

    Raises:
        ExportError: if a pruned weight is not zero.
    """
    check_zeros(compressed)
    masks = {_stored_name(name, compressed): kept for name, kept in compressed.masks.items()}
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in compressed.module.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        kept = masks.get(name)
        if kept is None:
            tensors[name] = tensor.clone()
            continue
        shapes[name] = list(tensor.shape)
        kept = kept.cpu().contiguous()
        tensors[f"{name}.values"] = tensor[kept]
        bits, gaps = _to_bitmask(kept), _to_gaps(kept)
        use_gaps = len(gaps) < len(bits)
        tensors[f"{name}.gaps" if use_gaps else f"{name}.bitmask"] = gaps if use_gaps else bits
    metadata = {"format": _FORMAT, "shapes": json.dumps(shapes)}
    return with_sorted_metadata(save(tensors, metadata | notes(compressed)))


def load_sparse(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict that ``export(..., format="sparse")`` wrote, with zeros filled in.

    Args:
        path: of the file.

    Returns:
        The state dict of the pruned model; a float model has the state dict of the original.

    Raises:
        DataError: if the file does not exist, is damaged or has another format.

    Example:
        >>> import mixmix
        >>> model = mixmix.load("bundled:vgg")
        >>> compressed = mixmix.Compressed(model.module, model.spec)  # or compress(model, ...)
        >>> artifact = mixmix.export(compressed, "vgg.safetensors")
        >>> model.module.load_state_dict(mixmix.load_sparse("vgg.safetensors"))
        <All keys matched successfully>
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return read_sparse(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def read_sparse(content: bytes) -> dict[str, Tensor]:
    """``load_sparse`` from the content of a file."""
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise DataError(f"not a safetensors file: {error}") from error
    metadata = _metadata(content)
    if metadata.get("format") != _FORMAT:
        raise DataError(
            f"has the format {metadata.get('format')!r}, expected {_FORMAT!r}; write it with "
            "export(compressed, path, format='sparse')"
        )
    shapes: dict[str, list[int]] = json.loads(metadata["shapes"])
    state = {}
    for name, shape in shapes.items():
        values = tensors.pop(f"{name}.values")
        size = int(np.prod(shape))
        bits, gaps = tensors.pop(f"{name}.bitmask", None), tensors.pop(f"{name}.gaps", None)
        if bits is not None:
            kept = _from_bitmask(bits, size)
        elif gaps is not None:
            kept = _from_gaps(gaps, size)
        else:
            raise DataError(f"has neither a bitmask nor gaps for {name}")
        if int(kept.sum()) != len(values):
            raise DataError(f"has {len(values)} values for {int(kept.sum())} positions of {name}")
        state[name] = _filled(kept.view(shape), values, tensors.get(_zero_point_name(name)))
    return state | tensors


def _filled(kept: Tensor, values: Tensor, zero_point: Tensor | None) -> Tensor:
    """A tensor with ``values`` where kept, and zero, or the zero point of integers, elsewhere."""
    full = torch.zeros(kept.shape, dtype=values.dtype)
    if zero_point is not None:
        full += zero_point.view(-1, *[1] * (full.ndim - 1)).to(full.dtype)
    full[kept] = values
    return full


def _stored_name(weight_name: str, compressed: Compressed) -> str:
    """Name of a weight, or of its integers, in the state dict."""
    if weight_name in compressed.module.state_dict():
        return weight_name
    for end in (".weight", "_weight"):
        integers = f"{weight_name.removesuffix(end)}.integers"
        if weight_name.endswith(end) and integers in compressed.module.state_dict():
            return integers
    raise DataError(f"{compressed.spec.name} has no weight called {weight_name}")


def _zero_point_name(name: str) -> str:
    layer, _, leaf = name.rpartition(".")
    return f"{layer}.zero_point" if leaf == "integers" else ""


def _to_bitmask(kept: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(kept.flatten().numpy()))


def _from_bitmask(bits: Tensor, size: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=size).astype(bool))


def _to_gaps(kept: Tensor) -> Tensor:
    gaps = np.diff(np.flatnonzero(kept.flatten().numpy()), prepend=-1) - 1
    skips = gaps // _SKIP
    ends = np.cumsum(skips + 1) - 1
    content = np.full(int((skips + 1).sum()), _SKIP, np.uint8)
    content[ends] = (gaps % _SKIP).astype(np.uint8)
    return torch.from_numpy(content)


def _from_gaps(gaps: Tensor, size: int) -> Tensor:
    content = gaps.numpy().astype(np.int64)
    ends = content != _SKIP
    positions = (np.cumsum(np.where(ends, content + 1, _SKIP)) - 1)[ends]
    if len(positions) and positions[-1] >= size:
        raise DataError(f"has a weight at position {positions[-1]} of {size}")
    kept = np.zeros(size, bool)
    kept[positions] = True
    return torch.from_numpy(kept)


def _metadata(content: bytes) -> dict[str, Any]:
    # The header is its length in 8 bytes, then JSON.
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})  # type: ignore[no-any-return]
