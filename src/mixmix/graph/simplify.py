"""Rewrites of a graph, before quantizers are placed, that do not change its function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from mixmix.graph.ops import has_kind

__all__ = ["drop_identities", "write_out_silu"]


def drop_identities(graph_module: fx.GraphModule, example: Tensor) -> None:
    """Remove calls that return their input, such as dropout and stochastic depth, in place.

    Args:
        graph_module: from ``capture``.
        example: (N, C, H, W) normalized images.
    """
    watcher = _IdentityWatcher(graph_module)
    with torch.no_grad():
        watcher.run(example)
    for node in watcher.found:
        node.replace_all_uses_with(node.all_input_nodes[0])
        graph_module.graph.erase_node(node)
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()


class _IdentityWatcher(fx.Interpreter):
    """Runs a graph and records the nodes that return their first argument unchanged."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.found: list[fx.Node] = []

    def run_node(self, n: fx.Node) -> Any:
        given = self.env.get(n.args[0]) if n.args and isinstance(n.args[0], fx.Node) else None
        # In-place operations return the same tensor as well, but a later version of it.
        version = given._version if isinstance(given, Tensor) else None
        result = super().run_node(n)
        # Methods are left out: ``contiguous`` returns its input only for some memory formats.
        if (
            n.op in ("call_function", "call_module")
            and isinstance(result, Tensor)
            and isinstance(given, Tensor)
            and result is given
            and version == result._version
        ):
            self.found.append(n)
        return result


def write_out_silu(graph_module: fx.GraphModule) -> None:
    """Replace ``silu(x)`` by ``x * sigmoid(x)``, which have integer kernels, in place."""
    modules = dict(graph_module.named_modules())
    for node in list(graph_module.graph.nodes):
        if has_kind(node, "silu", modules=modules):
            (x, *_) = node.all_input_nodes
            with graph_module.graph.inserting_before(node):
                gate = graph_module.graph.call_function(torch.sigmoid, (x,))
                product = graph_module.graph.call_function(torch.mul, (x, gate))
            gate.meta, product.meta = dict(node.meta), dict(node.meta)
            node.replace_all_uses_with(product)
            graph_module.graph.erase_node(node)
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
