"""Graphs of torch.export, which call functions, as graphs that call layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from mixmix.graph.calls import pair
from mixmix.graph.exported_contexts import inline_contexts_
from mixmix.graph.ops import kind_of

__all__ = ["lift_layers"]


def lift_layers(exported: fx.GraphModule) -> fx.GraphModule:
    """Turn calls of convolutions, linear layers and BatchNorm into modules.

    The exported module is changed, too. ``meta["sources"]`` of the result are the names of its
    parameters and buffers in the exported module, by their names in the result.
    """
    inline_contexts_(exported)
    _restore_calls_(exported.graph)
    root = nn.Module()
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    sources: dict[str, str] = {}
    # Names of modules by the tensors and other arguments of the calls.
    names: dict[Any, str] = {}

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            assert node.op == "get_attr"
            target = str(node.target)
            name = target.replace(".", "_")
            while hasattr(root, name):  # as a layer may be called
                name += "_"
            root.register_buffer(name, attrgetter(target)(exported).detach())
            sources[name] = target
            copies[node] = graph.get_attr(name)
        return copies[node]

    layers = {node: key for node in exported.graph.nodes if (key := _layer_key(node, exported))}
    parents = {_layer_names(node)[0].rpartition(".")[0] for node in layers}
    containers = {".".join(p.split(".")[: i + 1]) for p in parents for i in range(p.count(".") + 1)}
    for node, key in layers.items():
        if key not in names:
            name = names[key] = _unused(_layer_names(node), names.values(), containers)
            arguments: dict[int, Any] = dict(enumerate(node.args))
            values = {i: _value(each, exported) for i, each in arguments.items() if i}
            values[0] = arguments[0].meta["val"]
            _add_module(root, name, _BUILDERS[key[0]](values))
            for index, leaf in enumerate(_TENSORS[key[0]], start=1):
                if isinstance(arguments.get(index), fx.Node):
                    sources[f"{name}.{leaf}"] = str(arguments[index].target)
    for node in exported.graph.nodes:
        if node in layers:
            source: Any = node.args[0]
            copies[node] = graph.call_module(names[layers[node]], (copied(source),))
        elif node.op in ("get_attr", "call_module"):
            continue  # copied where they are used; torch.export's own guards
        elif node.op == "output":
            outputs = node.args[0]
            single = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
            graph.output(copied(single))
        else:
            copies[node] = graph.node_copy(node, copied)
    lifted = fx.GraphModule(root, graph)
    lifted.meta["sources"] = sources
    lifted.graph.eliminate_dead_code()
    lifted.recompile()
    return lifted


def _restore_calls_(graph: fx.Graph) -> None:
    """Replace calls of functionalized graphs, in place.

    Their BatchNorm returns a tuple, and their ``copy`` has no gradient.
    """
    aten = torch.ops.aten
    for node in list(graph.nodes):
        args: Sequence[Any] = node.args
        with graph.inserting_before(node):
            if node.target is aten._native_batch_norm_legit_no_training.default:
                given = (*args[:-2], False, *args[-2:], False)
                call = graph.call_function(aten.batch_norm.default, given)
                replaced = list(node.users)
            elif node.target is aten.copy.default:
                call = graph.call_function(aten.type_as.default, (args[1], args[0]))
                call = graph.call_function(aten.expand_as.default, (call, args[0]))
                replaced = [node]
            else:
                continue
        for each in replaced:
            call.meta = each.meta
            each.replace_all_uses_with(call)
            graph.erase_node(each)
        if replaced != [node]:
            graph.erase_node(node)


def _layer_key(node: fx.Node, exported: fx.GraphModule) -> Any:
    """The kind of a layer and all arguments of its call but the input; None if it stays a call.

    Its weights or bias may be computed, and BatchNorm may use the statistics of the batch.
    """
    kind = kind_of(node)
    if kind is None or not kind.lifted or node.kwargs:
        return None
    args: Sequence[Any] = node.args
    tensors = [each for each in node.all_input_nodes if each is not args[0]]
    if not tensors or any(each.op != "get_attr" for each in tensors):
        return None
    ndim = args[0].meta["val"].ndim
    if kind.name == "batch_norm":
        # BatchNorm1d and BatchNorm2d take other numbers of dimensions.
        fits, key = None not in args[3:5] and not args[5], ndim
    else:
        fits, key = _value(args[1], exported).ndim == (2 if kind.name == "linear" else ndim), 0
    return (kind.name, key, _called_layer(node), str(args[1:])) if fits else None


def _called_layer(node: fx.Node) -> str:
    """Name of the layer of PyTorch that made a call; empty if a function did."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    return str(path) if str(kind).rpartition(".")[2] in _CLASSES else ""


def _value(node: Any, exported: fx.GraphModule) -> Any:
    """The tensor that a node reads; other arguments as they are."""
    return attrgetter(str(node.target))(exported) if isinstance(node, fx.Node) else node


def _layer_names(node: fx.Node) -> list[str]:
    """Names for the layer of a call, from the names of its tensors; the best one is first.

    ``head`` for ``head.weight``, ``attn.in_proj`` for ``attn.in_proj_weight``.
    """
    targets = [str(each.target) for each in node.args[1:] if isinstance(each, fx.Node)]
    found = []
    for target in targets:
        parent, _, leaf = target.rpartition(".")
        leaf = leaf.removesuffix("_weight")
        plain = leaf in ("weight", "bias", "running_mean") and parent
        found.append(parent if plain else ".".join(filter(None, (parent, leaf))))
    return [name for name in (_called_layer(node), *found, targets[0]) if name]


def _unused(names: list[str], used: Collection[str], containers: Collection[str]) -> str:
    """The first name that is free, else the first one with a number.

    It is neither that of a layer, nor inside one, nor that of a module with layers.
    """
    numbered = (f"{names[0]}_{number}" for number in itertools.count(2))
    return next(
        name
        for name in itertools.chain(names, numbered)
        if name not in containers and not any(f"{name}.".startswith(f"{each}.") for each in used)
    )


def _add_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register under a qualified name."""
    parent, _, leaf = name.rpartition(".")
    current = root
    for part in filter(None, parent.split(".")):
        if not hasattr(current, part):
            current.add_module(part, nn.Module())
        current = getattr(current, part)
    current.add_module(leaf, module)


def _build_conv2d(args: dict[int, Any]) -> nn.Module:
    weight: Tensor = args[1]
    groups = args.get(6, 1)
    bias = args.get(2)
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=pair(args.get(3, (1, 1))),
        padding=args[4] if isinstance(args.get(4), str) else pair(args.get(4, (0, 0))),
        dilation=pair(args.get(5, (1, 1))),
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
    layer = kind(len(args[3]), eps=args[7], affine=args[1] is not None or args[2] is not None)
    return _with_values(
        layer, weight=args[1], bias=args[2], running_mean=args[3], running_var=args[4]
    )


# Names of the tensors in the arguments after the input.
_TENSORS = {
    "conv2d": ("weight", "bias"),
    "linear": ("weight", "bias"),
    "batch_norm": ("weight", "bias", "running_mean", "running_var"),
}
_CLASSES = ("Conv2d", "Linear", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
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
