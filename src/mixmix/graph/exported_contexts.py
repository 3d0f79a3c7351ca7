"""``with torch.no_grad()`` and ``with torch.autocast(...)`` in graphs of torch.export."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

__all__ = ["inline_contexts_"]

# Position of the argument with the body's graph; the inputs of the body follow it.
_BODIES = {
    torch.ops.higher_order.wrap_with_set_grad_enabled: 1,
    torch.ops.higher_order.wrap_with_autocast: 4,
}


def inline_contexts_(graph_module: fx.GraphModule) -> None:
    """Replace such contexts by their bodies, in place and without autocast.

    Weights and constants are inputs of a body in graphs of torch.export.
    """
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _BODIES:
            continue
        attribute, *inputs = node.args[_BODIES[node.target] :]
        body = graph_module.get_submodule(attribute.target)
        assert isinstance(body, fx.GraphModule)
        inline_contexts_(body)
        values = dict(zip(body.graph.find_nodes(op="placeholder"), inputs, strict=True))
        with graph.inserting_before(node):
            outputs: Any = graph.graph_copy(body.graph, values)
        for user in list(node.users):
            assert user.target is operator.getitem
            user.replace_all_uses_with(outputs[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
        if not attribute.users:
            graph.erase_node(attribute)
