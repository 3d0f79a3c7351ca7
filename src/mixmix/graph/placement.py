"""Placement of quantizers, so that integer kernels run from the input of a graph to its output.

Runtimes have integer kernels for layers, for additions, concatenations and pooling, and for
operations that move values. A kernel takes quantized inputs and is fused with the quantizer of its
output; a ReLU or clamp in between is absorbed. Hence quantizers go before every layer, before and
after every addition, concatenation and pooling, and after every convolution (kernels of linear
layers can also return floats). Other functions, such as SiLU, run in float between two quantizers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from mixmix.graph.calls import module_of
from mixmix.graph.ops import has_kind, joined_operands, moves, narrows

__all__ = ["Operands"]


class Operands:
    """Tensors of a graph that integer kernels take or return.

    Args:
        graph_module: the graph.
        is_layer: whether a module is a quantized layer.
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
        """The tensor whose values ``node`` moves, possibly itself; None for parameters."""
        assert isinstance(node, fx.Node)
        while moves(node, self._modules):
            node = node.all_input_nodes[0]
        return None if node.op == "get_attr" else node

    def sources_of_layers(self) -> set[fx.Node]:
        """The inputs of layers."""
        sources = {self.source(call.args[0]) for call in self.layers()}
        return {source for source in sources if source is not None}

    def joined(self) -> list[fx.Node]:
        """Tensors to quantize besides the inputs of layers.

        These are operands of additions, concatenations and pooling, and the outputs of these and of
        convolutions, unless a layer takes them or they are the output of the graph (in floats).
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
        """The ReLU or clamp that is the only consumer of a kernel's output, else the kernel."""
        while len(node.users) == 1:
            (user,) = node.users
            if not narrows(user, self._modules):
                break
            node = user
        return node

    def _is_output(self, node: fx.Node) -> bool:
        """Whether the only consumer of a tensor, moved or not, is the output of the graph."""
        waiting = [node]
        while waiting:
            for user in waiting.pop().users:
                if moves(user, self._modules):
                    waiting.append(user)
                elif user.op != "output":
                    return False
        return True
