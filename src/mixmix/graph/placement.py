"""Where quantizers belong in a graph, so that integer kernels run from its input to its output.

Runtimes have integer kernels for layers, for operations that join or pool tensors, and for those
that only move values. A kernel takes what is quantized and narrows what it gives in the quantizer
right behind it, which swallows a ReLU or a clamp on the way. Hence tensors are quantized where they
enter a layer, where they enter and leave what joins or pools, and where they leave a convolution
(a linear layer's kernel gives floats as well). All other functions, such as SiLU, run in floats
between two quantizers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from mixmix.graph.calls import module_of
from mixmix.graph.ops import has_kind, joined_operands, moves, narrows

__all__ = ["Operands"]


class Operands:
    """What the tensors of a graph go into.

    Args:
        graph_module: the graph.
        is_layer: true for the modules that are quantized.
    """

    def __init__(
        self, graph_module: fx.GraphModule, *, is_layer: Callable[[nn.Module], bool]
    ) -> None:
        self._graph = graph_module.graph
        self._modules = dict(graph_module.named_modules())
        self._is_layer = is_layer
        self._tensors: set[fx.Node] = set()
        for node in self._graph.nodes:
            if node.op in ("placeholder", "get_attr", "call_module") or (
                not has_kind(node, "size")
                and any(operand in self._tensors for operand in node.all_input_nodes)
            ):
                self._tensors.add(node)

    def layers(self) -> list[fx.Node]:
        """Calls to layers, in order of execution."""
        return [node for node in self._graph.nodes if self._layer_of(node) is not None]

    def source(self, node: Any) -> fx.Node | None:
        """The tensor that ``node`` only moves, itself if it moves none, or None for parameters."""
        assert isinstance(node, fx.Node)
        while moves(node, self._modules):
            node = node.all_input_nodes[0]
        return None if node.op == "get_attr" else node

    def sources_of_layers(self) -> set[fx.Node]:
        """The tensors that layers take."""
        sources = {self.source(call.args[0]) for call in self.layers()}
        return {source for source in sources if source is not None}

    def joined(self) -> list[fx.Node]:
        """Tensors to quantize beside those that only layers take.

        They are what is joined or pooled, and what is given by that, or by a convolution, to
        neither a layer nor the output of the graph, which is in floats.
        """
        found: dict[fx.Node, None] = {}
        of_layers = self.sources_of_layers()
        for node in self._graph.nodes:
            operands = joined_operands(node, self._is_computed, self._modules)
            sources = [self.source(operand) for operand in operands]
            found |= {source: None for source in sources if source is not None}
            layer = self._layer_of(node)
            if operands or (layer is not None and not isinstance(layer, nn.Linear)):
                given = self._behind_bounds(node)
                if given not in of_layers and not self._is_output(given):
                    found[given] = None
        return list(found)

    def _layer_of(self, node: fx.Node) -> nn.Module | None:
        module = module_of(node, self._modules)
        return module if module is not None and self._is_layer(module) else None

    def _is_computed(self, node: fx.Node) -> bool:
        return node in self._tensors and self.source(node) is not None

    def _behind_bounds(self, node: fx.Node) -> fx.Node:
        """Where what a kernel gives is narrowed: behind the ReLU or clamp that alone takes it."""
        while len(node.users) == 1:
            (user,) = node.users
            if not narrows(user, self._modules):
                break
            node = user
        return node

    def _is_output(self, node: fx.Node) -> bool:
        """Whether a tensor is moved to the output of the graph, and goes nowhere else."""
        waiting = [node]
        while waiting:
            for user in waiting.pop().users:
                if moves(user, self._modules):
                    waiting.append(user)
                elif user.op != "output":
                    return False
        return True
