"""Insertion of modules into a graph; recompile it afterwards."""

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
    """Insert a module between a tensor and some of its users.

    Args:
        graph_module: changed in place.
        source: the tensor.
        name: an unused name for the module.
        module: takes one tensor.
        users: nodes that take the output of the module instead.

    Returns:
        The node that calls the module.
    """
    graph_module.add_submodule(name, module)
    with graph_module.graph.inserting_after(source):
        inserted = graph_module.graph.call_module(name, (source,))
    inserted.meta = dict(source.meta)
    source.replace_all_uses_with(
        inserted, delete_user_cb=lambda user: user in users, propagate_meta=False
    )
    return inserted


def replace_by_module(
    graph_module: fx.GraphModule, node: fx.Node, name: str, module: nn.Module, *, takes: fx.Node
) -> None:
    """Replace a node by a call of ``module``, with the unused name ``name``, on ``takes``."""
    graph_module.add_submodule(name, module)
    with graph_module.graph.inserting_after(node):
        call = graph_module.graph.call_module(name, (takes,))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph_module.graph.erase_node(node)
