"""The page ``docs/operations.md``, written from the table of operations.

``python -m mixmix.graph.operations_page > docs/operations.md`` writes it anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from mixmix.graph.ops import KINDS, Kind

__all__ = ["operations_page"]

_INTRODUCTION = """\
# Operations

<!-- Written by `python -m mixmix.graph.operations_page > docs/operations.md`. -->

What mixmix knows about the operations of PyTorch. All that reads a graph asks this table, which is
`mixmix.graph.ops`; an operation that is not in it runs in floats, and nothing is assumed about it.
"""
_CALLS = """\
## How they are called

Functions are those of `torch` and `torch.nn.functional` that have these names, and the operators of
`torch.ops.aten` in exported graphs; methods are those of tensors.
"""
_READERS = """\
## What is done with them

*Quantization* says where the quantizers of activations go (`mixmix.graph.placement`).
*Equalization* scales channels across what is positively homogeneous (`mixmix.graph.equalize`).
*Fused BatchNorm* does the operation in the pass that normalizes, which synthesis uses on CPUs
(`mixmix.models.fused`). *Removable* branches are those that `PruneBlocks` may remove.
*ONNX* names the operators that are written, and *PT2E* says what the exporter of PyTorch programs
does with them.
"""
_JOINS = {
    "one": "quantized before and after",
    "two": "two activations are quantized before, their result after",
    "all": "all inputs and the output are quantized",
}


def operations_page() -> str:
    """The whole page, in Markdown."""
    calls = [
        (kind.name, _modules(kind), _functions(kind), _code(*kind.methods))
        for kind in KINDS.values()
    ]
    readers = [
        (
            kind.name,
            _quantization(kind),
            _equalization(kind),
            _fused(kind),
            "yes" if kind.name == "add" else "",
            _onnx(kind),
            _pt2e(kind),
        )
        for kind in KINDS.values()
    ]
    columns = ("Kind", "Quantization", "Equalization", "Fused BatchNorm", "Removable")
    return "\n".join(
        (
            _INTRODUCTION,
            _CALLS,
            _table(("Kind", "Modules", "Functions", "Methods"), calls),
            _READERS,
            _table((*columns, "ONNX", "PT2E"), readers),
        )
    ).rstrip("\n")


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _modules(kind: Kind) -> str:
    return _code(*(module.__name__ for module in kind.modules))


def _functions(kind: Kind) -> str:
    others = (f"{each.__module__.strip('_')}.{each.__name__}" for each in kind.others)
    return _code(*others, *kind.names)


def _quantization(kind: Kind) -> str:
    if kind.name in ("conv2d", "linear"):
        return "weights and input are quantized" + (
            ", and the output" if kind.name == "conv2d" else ""
        )
    if kind.name == "batch_norm":
        return "folded into the layer before it"
    if kind.product:
        return "stays in floats, and is recorded"
    if kind.name == "silu":
        return "written as `x * sigmoid(x)`"
    if kind.sizes:
        return "no activation"
    if kind.moves:
        where = {"pad": " if it adds zeros", "index": " if it takes slices or a part of a split"}
        return f"quantized once, before it{where.get(kind.name, '')}"
    if kind.narrows:
        return "quantized once, after it"
    only = ", over height and width" if kind.name == "mean" else ""
    return _JOINS[kind.joins] + only if kind.joins else "stays in floats"


def _equalization(kind: Kind) -> str:
    if kind.name in ("conv2d", "linear"):
        return "scaled"
    if kind.homogeneous or kind.name == "relu":
        return "passes scales"
    return "passes scales if it clamps to [0, b]" if kind.bounds is not None else ""


def _fused(kind: Kind) -> str:
    return "yes" if kind.bounds is not None or kind.name in ("add", "batch_norm") else ""


def _onnx(kind: Kind) -> str:
    if kind.moves and kind.onnx:
        return f"{_code(*kind.onnx)}; quantized again behind it"
    return _code(*kind.onnx)


def _pt2e(kind: Kind) -> str:
    if kind.name in ("conv2d", "linear"):
        return "integer weights; input quantized right before it"
    if kind.moves:
        return "looked through for the quantizer of a layer's input"
    return "joined to the clamp of a narrow quantizer behind it" if kind.narrows else ""


if __name__ == "__main__":
    print(operations_page())
