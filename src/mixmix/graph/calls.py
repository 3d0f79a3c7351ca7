"""Calls of the nodes of a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

__all__ = [
    "argument",
    "attributes_read",
    "called_modules",
    "count_calls",
    "is_call_to",
    "module_of",
    "name_of",
    "pair",
]


def module_of(node: Any, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The module that a node (or other argument) calls, or None.

    Args:
        node: a node, or any other argument of a node.
        modules: by name, as in ``dict(graph_module.named_modules())``.
    """
    if isinstance(node, fx.Node) and node.op == "call_module":
        return modules.get(str(node.target))
    return None


def name_of(node: fx.Node) -> str:
    """The layer that a node calls, or else its operation, for messages."""
    return str(node.target if node.op == "call_module" else node.name)


def is_call_to(node: fx.Node, *functions: Any) -> bool:
    """Whether a node calls one of these functions, methods (by name) or aten overload packets.

    See ``mixmix.graph.ops`` for kinds of operations.
    """
    if node.op == "call_method":
        return node.target in functions
    if node.op != "call_function":
        return False
    packet = getattr(node.target, "overloadpacket", None)
    return node.target in functions or (packet is not None and packet in functions)


def argument(node: fx.Node, position: int, *names: str) -> Any:
    """The argument of a node at a position or of one of these names, or None."""
    if len(node.args) > position:
        return node.args[position]
    return next((node.kwargs[name] for name in names if name in node.kwargs), None)


def pair(sizes: int | Sequence[int]) -> tuple[int, int]:
    """Sizes for height and width; a single one is for both."""
    if isinstance(sizes, int):
        return sizes, sizes
    return sizes[0], sizes[-1]


def count_calls(graph_module: fx.GraphModule) -> Counter[str]:
    """Number of calls of each module by name, in order of the first call."""
    return Counter(
        str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"
    )


def called_modules(graph_module: fx.GraphModule) -> dict[str, nn.Module]:
    """The modules that a graph calls by name, in order of the first call."""
    return {name: graph_module.get_submodule(name) for name in count_calls(graph_module)}


def attributes_read(graph_module: fx.GraphModule) -> set[str]:
    """Names of the parameters and buffers that a graph reads outside of modules."""
    return {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
