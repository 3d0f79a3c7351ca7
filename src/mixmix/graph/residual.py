"""Residual branches of a graph with an identity shortcut."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection
from dataclasses import dataclass

from torch import fx

from mixmix.graph.calls import count_calls, module_of
from mixmix.graph.ops import has_kind

__all__ = ["ResidualBlock", "find_residual_blocks", "without_blocks"]


@dataclass(frozen=True)
class ResidualBlock:
    """A removable branch: ``skip + branch(skip)`` becomes ``skip``.

    Attributes:
        name: common prefix of the names of its layers, else the name of the first.
        addition: name of the addition's node.
        skip: name of the shortcut's node.
        layers: names of the modules with parameters in the branch, in order of execution.
    """

    name: str
    addition: str
    skip: str
    layers: tuple[str, ...]


def find_residual_blocks(graph_module: fx.GraphModule) -> list[ResidualBlock]:
    """The removable branches of a captured graph, in order of execution.

    Branches with a strided, projected or padded shortcut are not removable, nor are those that read
    other tensors or share a layer with the rest of the graph.
    """
    modules = dict(graph_module.named_modules())
    calls = count_calls(graph_module)
    blocks: list[ResidualBlock] = []
    for node in graph_module.graph.nodes:
        operands = [each for each in node.args if isinstance(each, fx.Node)]
        if not has_kind(node, "add") or len(operands) != 2 or node.kwargs:
            continue
        for skip, end in (operands, operands[::-1]):
            branch = _branch(skip, end, node)
            layers = [
                str(each.target)
                for each in branch
                if (module := module_of(each, modules)) is not None
                and next(module.parameters(), None) is not None
            ]
            if layers and all(calls[layer] == 1 for layer in layers):
                blocks.append(ResidualBlock(_name(layers), node.name, skip.name, tuple(layers)))
                break
    return blocks


def without_blocks(
    graph_module: fx.GraphModule, blocks: Collection[ResidualBlock]
) -> fx.GraphModule:
    """The graph without some branches; it shares the remaining modules."""
    graph = copy.deepcopy(graph_module.graph)
    nodes = {node.name: node for node in graph.nodes}
    for block in blocks:
        skip = nodes[block.skip]
        nodes[block.addition].replace_all_uses_with(skip)
        # For later blocks whose shortcut is this sum.
        nodes[block.addition] = skip
    pruned = fx.GraphModule(graph_module, graph)
    pruned.graph.eliminate_dead_code()
    pruned.recompile()
    pruned.delete_all_unused_submodules()
    return pruned.eval()


def _branch(skip: fx.Node, end: fx.Node, addition: fx.Node) -> list[fx.Node]:
    """Nodes between ``skip`` and ``end``; empty if there are other inputs or outputs."""
    inside: dict[fx.Node, None] = {}
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node is skip or node.op == "get_attr" or node in inside:
            continue
        if node.op in ("placeholder", "output"):
            return []
        inside[node] = None
        waiting.extend(node.all_input_nodes)
    if not any(skip in node.all_input_nodes for node in inside):
        return []
    leaves = (user for node in inside for user in node.users if user not in inside)
    if any(user is not addition for user in leaves):
        return []
    return [node for node in skip.graph.nodes if node in inside]


def _name(layers: list[str]) -> str:
    common = os.path.commonprefix([layer.split(".") for layer in layers])
    return ".".join(common) or layers[0]
