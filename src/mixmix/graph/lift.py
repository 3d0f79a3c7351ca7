"""Graphs of torch.export, which call functions, as graphs that call layers."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from mixmix.graph.exported_contexts import inline_contexts_
from mixmix.graph.ops import kind_of

__all__ = ["lift_layers"]


def lift_layers(exported: fx.GraphModule) -> fx.GraphModule:
    """Turn calls of convolutions, linear layers and BatchNorm into modules.

    The exported module is changed, too.
    """
    inline_contexts_(exported)
    root = nn.Module()
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}

    def attribute(node: Any) -> Any:
        if not (isinstance(node, fx.Node) and node.op == "get_attr"):
            return node
        return attrgetter(str(node.target))(exported)

    for node in exported.graph.nodes:
        kind = kind_of(node)
        # The first argument after the input that is a node; BatchNorm may have no weight.
        first = next((a for a in node.args[1:] if isinstance(a, fx.Node)), None)
        if kind is not None and kind.lifted and first is not None and first.op == "get_attr":
            values = {index: attribute(value) for index, value in enumerate(node.args) if index}
            values[0] = node.args[0].meta.get("val")
            path = _add_module(root, _layer_name(str(first.target)), _BUILDERS[kind.name](values))
            copies[node] = graph.call_module(path, (copies[node.args[0]],))
        elif node.op == "get_attr":
            name = str(node.target).replace(".", "_")
            if not hasattr(root, name):
                root.register_buffer(name, attribute(node).detach())
            copies[node] = graph.get_attr(name)
        elif node.op == "call_module":
            continue  # torch.export's own guards
        elif node.op == "output":
            outputs = node.args[0]
            single = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
            graph.output(copies[single])
        else:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    lifted = fx.GraphModule(root, graph)
    lifted.graph.eliminate_dead_code()
    lifted.recompile()
    return lifted


def _layer_name(weight: str) -> str:
    """``head`` for ``head.weight``, ``attn.in_proj`` for ``attn.in_proj_weight``."""
    parent, _, leaf = weight.rpartition(".")
    if leaf in ("weight", "running_mean") and parent:
        return parent
    return ".".join(filter(None, (parent, leaf.removesuffix("_weight"))))


def _add_module(root: nn.Module, name: str, module: nn.Module) -> str:
    """Register under a qualified name, once for a layer that is called several times."""
    parent, _, leaf = name.rpartition(".")
    current = root
    for part in filter(None, parent.split(".")):
        if not hasattr(current, part):
            current.add_module(part, nn.Module())
        current = getattr(current, part)
    if not hasattr(current, leaf):
        current.add_module(leaf, module)
    return name


def _build_conv2d(args: dict[int, Any]) -> nn.Module:
    weight: Tensor = args[1]
    groups = args.get(6, 1)
    bias = args.get(2)
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=tuple(args.get(3, (1, 1))),
        padding=args[4] if isinstance(args.get(4), str) else tuple(args.get(4, (0, 0))),
        dilation=tuple(args.get(5, (1, 1))),
        groups=groups,
        bias=bias is not None,
    )
    return _with_values(layer, weight=weight, bias=bias)


def _build_linear(args: dict[int, Any]) -> nn.Module:
    weight: Tensor = args[1]
    bias = args.get(2)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _with_values(layer, weight=weight, bias=bias)


def _build_batch_norm(args: dict[int, Any]) -> nn.Module:
    x: Tensor | None = args[0]
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 5: nn.BatchNorm3d}
    kind = nn.BatchNorm2d if x is None else kinds.get(x.ndim, nn.BatchNorm2d)
    layer = kind(len(args[3]), eps=args[7], affine=args[1] is not None)
    return _with_values(
        layer, weight=args[1], bias=args[2], running_mean=args[3], running_var=args[4]
    )


_BUILDERS: dict[str, Callable[[dict[int, Any]], nn.Module]] = {
    "conv2d": _build_conv2d,
    "linear": _build_linear,
    "batch_norm": _build_batch_norm,
}


@torch.no_grad()
def _with_values(layer: nn.Module, **values: Tensor | None) -> nn.Module:
    for name, value in values.items():
        if value is not None:
            getattr(layer, name).copy_(value)
    return layer.eval().to(next(v.device for v in values.values() if v is not None))
