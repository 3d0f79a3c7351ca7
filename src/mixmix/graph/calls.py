"""What the nodes of a graph call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

__all__ = ["argument", "attributes_read", "count_calls", "is_call_to", "module_of"]


def module_of(node: Any, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The module that a node calls, or None.

    Args:
        node: anything that can be an argument of a node.
        modules: by name, as in ``dict(graph_module.named_modules())``.
    """
    if isinstance(node, fx.Node) and node.op == "call_module":
        return modules.get(str(node.target))
    return None


def is_call_to(node: fx.Node, *functions: Any) -> bool:
    """Whether a node calls one of these functions, methods (by name) or aten overload packets.

    For kinds of operations, whatever they are called, ask ``mixmix.graph.ops``.
    """
    if node.op == "call_method":
        return node.target in functions
    if node.op != "call_function":
        return False
    packet = getattr(node.target, "overloadpacket", None)
    return node.target in functions or (packet is not None and packet in functions)


def argument(node: fx.Node, position: int, *names: str) -> Any:
    """The argument of a node at a position or of one of these names; None if it is not given."""
    if len(node.args) > position:
        return node.args[position]
    return next((node.kwargs[name] for name in names if name in node.kwargs), None)


def count_calls(graph_module: fx.GraphModule) -> Counter[str]:
    """How often a graph calls each module, by name."""
    return Counter(
        str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"
    )


def attributes_read(graph_module: fx.GraphModule) -> set[str]:
    """Names of the parameters and buffers that a graph reads itself, outside of its modules."""
    return {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
