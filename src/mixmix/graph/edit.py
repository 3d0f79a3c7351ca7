"""Edits of a graph: calls to new modules. Recompile the graph after the last of them."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx, nn

__all__ = ["insert_module_after", "replace_by_module"]


def insert_module_after(
    graph_module: fx.GraphModule,
    source: fx.Node,
    name: str,
    module: nn.Module,
    *,
    users: Collection[fx.Node],
) -> fx.Node:
    """Put a module between a tensor and some of those that use it.

    Args:
        graph_module: changed.
        source: the tensor.
        name: of the module in the graph; it must be free.
        module: takes one tensor.
        users: of the tensor; others go on using it as it is.

    Returns:
        The node that calls the module.
    """
    graph_module.add_submodule(name, module)
    with graph_module.graph.inserting_after(source):
        inserted = graph_module.graph.call_module(name, (source,))
    source.replace_all_uses_with(
        inserted, delete_user_cb=lambda user: user in users, propagate_meta=False
    )
    return inserted


def replace_by_module(
    graph_module: fx.GraphModule, node: fx.Node, name: str, module: nn.Module, *, takes: fx.Node
) -> None:
    """Call a module instead of what a node does.

    Args:
        graph_module: changed.
        node: erased.
        name: of the module in the graph; it must be free.
        module: takes one tensor.
        takes: that tensor.
    """
    graph_module.add_submodule(name, module)
    with graph_module.graph.inserting_after(node):
        call = graph_module.graph.call_module(name, (takes,))
    node.replace_all_uses_with(call)
    graph_module.graph.erase_node(node)
