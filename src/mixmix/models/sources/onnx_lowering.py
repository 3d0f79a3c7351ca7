"""ONNX graphs of today as onnx2torch reads them.

The converter knows operations up to opset 17, and the official version converter stops at the first
operation without an older form. Most differ only in how they are written down, so that they are
rewritten here; whoever converts the graph has to compare what it gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

__all__ = ["lower"]

_OPSET = 17


def lower(model: Any) -> None:
    """Rewrite an ``onnx.ModelProto`` in place.

    - Constants, and second names of weights, become weights: of a BatchNorm whose values are shared
      under a second name, the converter makes no layer.
    - Axes of reductions become attributes, as they were up to opset 17.
    - ``Gelu`` becomes its definition, ``x / 2 * (1 + erf(x / sqrt(2)))``, or with ``tanh`` of
      ``sqrt(2 / pi) * (x + 0.044715 * x**3)`` in place of ``erf``.
    - Attributes go that the converter does not know: numbers of equal parts, and what sizes of zero
      mean, which images do not have.
    """
    graph = model.graph
    kept: list[Any] = []
    for node in graph.node:
        kept.extend(_rewritten(node, graph))
    del graph.node[:]
    graph.node.extend(kept)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(entry.version, _OPSET)


def _rewritten(node: Any, graph: Any) -> Iterable[Any]:
    weights = {tensor.name: tensor for tensor in graph.initializer}
    value = None
    if node.op_type == "Constant" and node.attribute[0].name == "value":
        value = node.attribute[0].t
    elif node.op_type == "Identity":
        value = weights.get(node.input[0])
    if value is not None and node.output[0] not in {output.name for output in graph.output}:
        graph.initializer.append(value)
        graph.initializer[-1].name = node.output[0]
        return ()
    if node.op_type == "Gelu":
        return _gelu(node, graph)
    if node.op_type.startswith("Reduce") and len(node.input) == 2 and node.op_type != "ReduceSum":
        _fix_axes(node, weights)
    if node.op_type == "Reshape":
        _drop(node, "allowzero")
    if node.op_type == "Split":
        _drop(node, "num_outputs")
    return (node,)


def _drop(node: Any, attribute: str) -> None:
    kept = [entry for entry in node.attribute if entry.name != attribute]
    del node.attribute[:]
    node.attribute.extend(kept)


def _fix_axes(node: Any, weights: dict[str, Any]) -> None:
    from onnx import helper, numpy_helper

    if node.input[1] in weights:
        axes = numpy_helper.to_array(weights[node.input[1]]).tolist()
        _drop(node, "noop_with_empty_axes")
        node.attribute.append(helper.make_attribute("axes", axes))
        del node.input[1]


def _gelu(node: Any, graph: Any) -> list[Any]:
    from onnx import TensorProto, helper

    (source,), (target,) = node.input, node.output
    numbers = {"root": math.sqrt(2), "one": 1.0, "half": 0.5}
    numbers |= {"slope": math.sqrt(2 / math.pi), "cubic": 0.044715}
    for name, value in numbers.items():
        tensor = helper.make_tensor(f"{target}.{name}", TensorProto.FLOAT, (), [value])
        graph.initializer.append(tensor)
    inner: tuple[tuple[str, ...], ...]
    inner = (("Div", "x", "root", "scaled"), ("Erf", "scaled", "gate"))
    if any(entry.s == b"tanh" for entry in node.attribute):
        inner = (
            ("Mul", "x", "x", "square"),
            ("Mul", "square", "cubic", "bend"),
            ("Add", "bend", "one", "bent"),
            ("Mul", "x", "slope", "sloped"),
            ("Mul", "sloped", "bent", "scaled"),
            ("Tanh", "scaled", "gate"),
        )
    outer = (("Add", "gate", "one", "open"), ("Mul", "x", "open", "double"))
    steps = (*inner, *outer, ("Mul", "double", "half", "y"))
    names = {"x": source, "y": target}
    return [
        helper.make_node(kind, inputs, [output], output)
        for kind, *inputs, output in (
            (kind, *(names.get(each, f"{target}.{each}") for each in of)) for kind, *of in steps
        )
    ]
