"""BatchNorm that an exporter wrote as elementwise operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from mixmix.runtimes.onnx_nodes import Array, add_constant, constant, replace_node

__all__ = ["restore_batch_norms"]

# Operations on constants, such as the root of a variance and a small number.
_COMPUTED: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Div": np.divide,
    "Identity": np.asarray,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": np.power,
    "Reciprocal": np.reciprocal,
    "Reshape": lambda array, shape: array.reshape(shape),
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Unsqueeze": lambda array, axes: np.expand_dims(array, tuple(axes)),
}


class _Step(NamedTuple):
    """An operation with one constant per channel."""

    node: ir.Node
    kind: str
    source: ir.Value
    constant: Array  # (C,)


def restore_batch_norms(model: ir.Model) -> None:
    """Make BatchNorm of ``(x - mean) / std * weight + bias``, in place, so that it is seen as such.

    ``std`` may be multiplied as its inverse if there is a weight; weight and bias may be missing.
    Where only ``x * scale + shift`` is left of it, the statistics are lost.
    """
    for node in list(model.graph):
        steps = _chain(node)
        parts = _parts(steps)
        if parts is None:
            continue
        count, (mean, std, weight, bias) = parts
        last = steps[count - 1].node
        tape = ir.tape.Tape()
        prefix = steps[0].node.outputs[0].name
        given = [
            add_constant(model.graph, f"{prefix}_{name}", array.astype(np.float32))
            for name, array in (("scale", weight), ("B", bias), ("mean", mean), ("var", std**2))
        ]
        normalized = tape.op(
            "BatchNormalization", [steps[0].source, *given], attributes={"epsilon": 0.0}
        )
        replace_node(last, tape, normalized)
        for step in reversed(steps[: count - 1]):
            model.graph.remove(step.node, safe=True)


def _chain(node: ir.Node) -> list[_Step]:
    """Up to four operations with constants, of which each is the only user of the one before."""
    steps: list[_Step] = []
    current: ir.Node | None = node
    while current is not None and len(steps) < 4:
        step = _step(current)
        if step is None or (steps and step.source is not steps[-1].node.outputs[0]):
            break
        steps.append(step)
        users = list(current.outputs[0].uses())
        is_inner = len(users) == 1 and not current.outputs[0].is_graph_output()
        current = users[0].node if is_inner else None
    return steps


def _parts(steps: list[_Step]) -> tuple[int, tuple[Array, Array, Array, Array]] | None:
    """How many steps are a BatchNorm, and its mean, std, weight and bias (C,); None if none are."""
    kinds = [step.kind for step in steps]
    if kinds[:1] not in (["Sub"], ["Add"]) or len({step.constant.shape for step in steps}) > 1:
        return None
    mean = steps[0].constant if kinds[0] == "Sub" else -steps[0].constant
    if kinds[1:2] == ["Div"]:
        std = steps[1].constant
    elif kinds[1:3] == ["Mul", "Mul"]:
        std = 1 / steps[1].constant
    else:
        return None
    if not (np.isfinite(std).all() and (std > 0).all()):
        return None
    weight, bias, count = np.ones_like(std), np.zeros_like(std), 2
    if kinds[2:3] == ["Mul"]:
        weight, count = steps[2].constant, 3
    if kinds[count : count + 1] in (["Add"], ["Sub"]):
        bias = steps[count].constant * (1 if kinds[count] == "Add" else -1)
        count += 1
    return count, (mean, std, weight, bias)


def _step(node: ir.Node) -> _Step | None:
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if node.op_type in ("Add", "Mul") and _value(first) is not None:
        first, second = second, first
    array = _value(second)
    # Images are normalized by such operations, too, which are no layer's.
    if first is None or first.producer() is None or array is None or _value(first) is not None:
        return None
    channels = _per_channel(array, first)
    return None if channels is None else _Step(node, node.op_type, first, channels)


def _per_channel(array: Array, source: ir.Value) -> Array | None:
    """A constant as (C,), if it is one number for each of several channels."""
    if array.ndim >= 3:
        shape = array.shape if array.ndim == 4 else (1, *array.shape)
        fits = len(shape) == 4 and shape[0] == shape[2] == shape[3] == 1
    else:
        # (N, C), where other vectors belong to the last of many axes.
        layer = source.producer()
        while layer is not None and layer.op_type in ("Add", "Sub", "Mul", "Div"):
            layer = layer.inputs[0].producer() if layer.inputs[0] is not None else None
        is_vector = array.ndim == 1 or (array.ndim == 2 and array.shape[0] == 1)
        fits = is_vector and layer is not None and layer.op_type == "Gemm"
    return array.reshape(-1) if fits and array.size > 1 else None


def _value(value: ir.Value | None) -> Array | None:
    """A constant, or what a graph computes from constants alone."""
    if value is None:
        return None
    array = constant(value)
    node = value.producer()
    if array is not None or node is None or node.op_type not in _COMPUTED:
        return array
    inputs = [_value(each) for each in node.inputs]
    if any(each is None for each in inputs):
        return None
    with np.errstate(all="ignore"):
        found: Array = _COMPUTED[node.op_type](*inputs)
    return found
