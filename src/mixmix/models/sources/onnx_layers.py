"""Linear layers instead of ONNX's products with constant matrices."""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import Tensor, fx, nn

from mixmix.models.sources.onnx_shapes import kind_of

__all__ = ["products_as_layers"]


def products_as_layers(model: fx.GraphModule) -> None:
    """Replace ``x @ W`` and ``x @ W + b`` of a converted graph by linear layers, in place.

    Compression applies to layers, and transformers have hardly any others.
    """
    for node in list(model.graph.nodes):
        if kind_of(model, node) != "OnnxMatMul":
            continue
        matrix = _constant(model, node.args[1])
        if matrix is None or matrix.ndim != 2:
            continue
        last, bias = node, None
        user = next(iter(node.users)) if len(node.users) == 1 else None
        if user is not None and _adds(model, user):
            other = next((each for each in user.args if each is not node), None)
            found = _constant(model, other)
            if found is not None and found.shape == matrix.shape[1:]:
                last, bias = user, found
        layer = nn.Linear(matrix.shape[0], matrix.shape[1], bias=bias is not None)
        with torch.no_grad():
            layer.weight.copy_(matrix.T)
            if bias is not None:
                layer.bias.copy_(bias)
        name = f"{node.name}_linear"
        model.add_submodule(name, layer)
        with model.graph.inserting_before(last):
            call = model.graph.call_module(name, (node.args[0],))
        last.replace_all_uses_with(call)
    model.graph.eliminate_dead_code()
    model.recompile()


def _adds(model: fx.GraphModule, node: fx.Node) -> bool:
    if kind_of(model, node) != "OnnxBinaryMathOperation":
        return False
    called = model.get_submodule(str(node.target))
    return getattr(called, "math_op_function", None) is torch.add


def _constant(model: fx.GraphModule, node: object) -> Tensor | None:
    """The tensor of a ``get_attr`` node."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = attrgetter(str(node.target))(model)
    return value if isinstance(value, Tensor) else None
