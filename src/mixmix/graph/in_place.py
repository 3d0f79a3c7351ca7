"""Operations that change tensors in place, as operations that return new tensors.

Passes over a graph follow results. Where an operation changes its input instead, as ``relu_(x)``
does without a use of its result, later readers of the input become readers of the result.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from mixmix.errors import CaptureError

__all__ = ["remove_in_place_"]

_OPERATORS = {
    getattr(operator, f"i{name}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
} | {operator.iand: operator.and_, operator.ior: operator.or_, operator.ixor: operator.xor}


def remove_in_place_(graph_module: fx.GraphModule, example: Tensor) -> None:
    """Replace operations in place, in place; modules of the graph lose their ``inplace``.

    Args:
        graph_module: whose nodes without users have not been removed.
        example: normalized images.

    Raises:
        CaptureError: if an operation changes a part of another tensor, or the network's own.
    """
    watcher = _WriteWatcher(graph_module)
    with torch.no_grad():
        watcher.run(example.clone())
    if not watcher.writes:
        return
    order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    for node, changed in watcher.writes.items():
        later = [
            other
            for other, storage in watcher.storage.items()
            if storage == watcher.storage[changed]
            and other is not node
            and order[other] < order[node]
            and any(order[user] > order[node] for user in other.users)
        ]
        read = any(order[attribute] > order[node] for attribute in watcher.reads_of(changed))
        if not later and not node.users and not read:
            graph_module.graph.erase_node(node)
            continue
        same = all(watcher.tensor[other] == watcher.tensor[changed] for other in later)
        if not same or changed.op == "get_attr" or not _make_functional(node, graph_module):
            raise CaptureError(f"{node.name} changes a tensor in place that others share")
        for other in later:
            for user in [user for user in other.users if order[user] > order[node]]:
                user.replace_input_with(other, node)
    graph_module.recompile()


def _make_functional(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    """Turn an operation that changes its first argument into its functional variant."""
    if node.op == "call_module":
        module: Any = graph_module.get_submodule(str(node.target))
        known = hasattr(module, "inplace")
        module.inplace = False
        return known
    if "out" in node.kwargs:
        return False
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    functional: Any = _OPERATORS.get(node.target)
    if node.op == "call_method":
        name = str(node.target).removesuffix("_")
        functional = name if hasattr(Tensor, name) else None
    elif isinstance(node.target, torch._ops.OpOverload):
        packet = getattr(torch.ops.aten, node.target._schema.name.split("::")[1][:-1], None)
        functional = getattr(packet, node.target._overloadname, None)
    elif functional is None:
        name = str(getattr(node.target, "__name__", "")).removesuffix("_")
        functional = getattr(torch, name, None) or getattr(F, name, None)
    if functional is None or functional == node.target:
        return False
    node.target = functional
    return True


class _WriteWatcher(fx.Interpreter):
    """Runs a graph and records the nodes that change a tensor.

    Attributes:
        writes: from such nodes to the node whose tensor they change.
        storage: from nodes to a number; tensors that share memory have the same one.
        tensor: likewise; nodes that return the same tensor have the same one.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.writes: dict[fx.Node, fx.Node] = {}
        self.storage: dict[fx.Node, int] = {}
        self.tensor: dict[fx.Node, int] = {}
        self._attributes: dict[str, int] = {}

    def reads_of(self, changed: fx.Node) -> list[fx.Node]:
        """Nodes that read a parameter or buffer in the memory of a node's value."""
        storage = self.storage[changed]
        return [n for n, own in self.storage.items() if own == storage and n.op == "get_attr"]

    def run_node(self, n: fx.Node) -> Any:
        given = {node: self.env[node] for node in n.all_input_nodes}
        versions = {
            node: value._version for node, value in given.items() if isinstance(value, Tensor)
        }
        result = super().run_node(n)
        changed = [node for node, version in versions.items() if given[node]._version != version]
        if changed:
            # The first argument, of several that share memory.
            self.writes[n] = changed[0]
        self.storage[n] = self.tensor[n] = len(self.storage)
        if n.op == "get_attr":
            self.storage[n] = self._attributes.setdefault(str(n.target), self.storage[n])
        for node, value in given.items():
            if _storages(result) & _storages(value):
                self.storage[n] = self.storage[node]
            if result is value:
                self.tensor[n] = self.tensor[node]
        return result


def _storages(value: Any) -> set[int]:
    """Addresses of the memory of a tensor, or of a sequence of tensors."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return {each.untyped_storage()._cdata for each in values if isinstance(each, Tensor)}
