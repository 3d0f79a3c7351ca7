"""Write ``operations.md`` from the table of operations: ``python docs/write_operations.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mixmix.graph.ops import KINDS, Kind

PAGE = Path(__file__).with_name("operations.md")

_INTRODUCTION = """\
# Operations

<!-- Written by `python docs/write_operations.py`. -->

What mixmix knows about PyTorch's operations: the contents of `mixmix.graph.ops`, which all graph
passes read. An operation that is not listed runs in float, and mixmix assumes nothing about it.

## Names

Functions are in `torch`, `torch.nn.functional` and, for exported graphs, `torch.ops.aten`; methods
are tensor methods.
"""
_PASSES = """\
## Passes

*Quantization*: where activation quantizers are inserted (`mixmix.graph.placement`).
*Equalization*: whether channel scales pass through the operation (`mixmix.graph.equalize`).
*Fused BatchNorm*: whether synthesis on CPUs fuses the operation with BatchNorm
(`mixmix.models.fused`). *Removable*: whether `PruneBlocks` can remove branches that end in it.
*ONNX* and *PT2E*: what the exporters write.
"""
_JOINS = {
    "one": "input and output quantized",
    "two": "both activations and the output quantized",
    "all": "all inputs and the output quantized",
}


def operations_page() -> str:
    """The page in Markdown."""
    kinds = KINDS.values()
    names = [(kind.name, _modules(kind), _functions(kind), _code(*kind.methods)) for kind in kinds]
    passes = [
        (
            kind.name,
            _quantization(kind),
            _equalization(kind),
            "yes" if kind.bounds is not None or kind.name in ("add", "batch_norm") else "",
            "yes" if kind.name == "add" else "",
            _code(*kind.onnx) + ("; quantized again after it" if kind.moves and kind.onnx else ""),
            _pt2e(kind),
        )
        for kind in kinds
    ]
    columns = ("Kind", "Quantization", "Equalization", "Fused BatchNorm", "Removable")
    return "\n".join(
        (
            _INTRODUCTION,
            _table(("Kind", "Modules", "Functions", "Methods"), names),
            _PASSES,
            _table((*columns, "ONNX", "PT2E"), passes),
        )
    )


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
    if kind.name == "conv2d":
        return "weights, input and output quantized"
    if kind.name == "linear":
        return "weights and input quantized"
    if kind.name == "batch_norm":
        return "folded into the preceding layer"
    if kind.product:
        return "stays in float, and is recorded"
    if kind.name == "silu":
        return "written as `x * sigmoid(x)`"
    if kind.sizes:
        return "no activation"
    if kind.moves:
        condition = {
            "pad": " if it adds zeros",
            "index": " if it takes slices or one output of a split",
        }
        return f"quantized once, before it{condition.get(kind.name, '')}"
    if kind.narrows:
        return "quantized once, after it"
    only = ", over height and width" if kind.name == "mean" else ""
    return _JOINS[kind.joins] + only if kind.joins else "stays in float"


def _equalization(kind: Kind) -> str:
    if kind.name in ("conv2d", "linear"):
        return "scaled"
    if kind.homogeneous or kind.name == "relu":
        return "passes scales"
    return "passes scales if it clamps to [0, b]" if kind.bounds is not None else ""


def _pt2e(kind: Kind) -> str:
    if kind.name in ("conv2d", "linear"):
        return "integer weights; input quantized right before it"
    if kind.moves:
        return "skipped when looking for the quantizer of a layer's input"
    return "merged with the clamp of a following narrow quantizer" if kind.narrows else ""


if __name__ == "__main__":
    PAGE.write_text(operations_page())
