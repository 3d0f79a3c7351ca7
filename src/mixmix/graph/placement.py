"""Placement of quantizers, so that integer kernels run from the input of a graph to its output.

Runtimes have integer kernels for layers, for additions, concatenations and pooling, and for
operations that move values. A kernel takes quantized inputs and is fused with the quantizer of its
output; a ReLU or clamp in between is absorbed. Hence quantizers go before every layer, before and
after every addition, concatenation and pooling, and after every convolution (kernels of linear
layers can also return floats). Other functions, such as SiLU, run in float between two quantizers.

Values that no layer sees set no range: a tensor that is padded or filled for a maximum is quantized
after the maximum, and what a softmax alone reads stays in float. So does a stream of sums that a
normalization reads, such as the residual stream of a transformer: the normalization takes floats,
and often undoes a few large channels that would leave all others few levels. Layers that read such
a stream, or what is added to it, quantize it for themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from mixmix.graph.calls import module_of
from mixmix.graph.floats import is_float
from mixmix.graph.ops import fills, has_kind, joined_operands, kind_of, moves, narrows

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
        self._tensors: set[fx.Node] = set()  # that depend on the image
        self._images: set[fx.Node] = set()  # and on no layer
        for node in self._graph.nodes:
            operands = [each for each in node.all_input_nodes if each in self._tensors]
            if node.op == "placeholder" or (operands and not has_kind(node, "size")):
                self._tensors.add(node)
                if self._images.issuperset(operands) and not self._has_weights(node):
                    self._images.add(node)
        self._float_sums = self._normalized_streams()
        self._float_operands = {
            self.source(operand) for node in self._float_sums for operand in node.all_input_nodes
        }

    def layers(self) -> list[fx.Node]:
        """Calls to layers, in order of execution."""
        return [node for node in self._graph.nodes if self._layer_of(node) is not None]

    def source(self, node: Any) -> fx.Node | None:
        """The tensor whose values ``node`` moves, possibly itself; None for parameters.

        It is a maximum if values were filled in before it.
        """
        assert isinstance(node, fx.Node)
        maximum: fx.Node | None = None
        while moves(node, self._modules):
            maximum = node if has_kind(node, "pool_max", modules=self._modules) else maximum
            node = node.all_input_nodes[0]
        if maximum is not None and fills(node, self._modules):
            return maximum
        return None if node.op == "get_attr" else node

    def is_image(self, node: fx.Node) -> bool:
        """Whether a tensor is made of the image alone, by no layer."""
        return node in self._images

    def is_for_float(self, node: fx.Node) -> bool:
        """Whether a tensor belongs to a stream of sums that a normalization reads anywhere.

        It is such a sum, or added to one, and made by a layer. Layers quantize it for themselves
        alone, unless it is in ``joined``.
        """
        is_in_stream = node in self._float_sums or node in self._float_operands
        return is_in_stream and not self.is_image(node)

    def sources_of_layers(self) -> set[fx.Node]:
        """The inputs of layers."""
        sources = {self.source(call.args[0]) for call in self.layers()}
        return {source for source in sources if source is not None}

    def joined(self) -> list[fx.Node]:
        """Tensors to quantize besides the inputs of layers.

        These are operands of additions, concatenations and pooling, and the outputs of these and of
        convolutions, unless a layer alone takes them or they are the output of the graph (in
        floats).
        """
        found: dict[fx.Node, None] = {}
        of_layers = self.sources_of_layers()
        for node in self._graph.nodes:
            operands = joined_operands(node, self._is_computed, self._modules)
            if not is_float(node) or self._is_float_sum(node):
                operands = []
            operands = [operand for operand in operands if is_float(operand)]
            sources = [self.source(operand) for operand in operands]
            found |= {source: None for source in sources if source is not None}
            layer = self._layer_of(node)
            if operands or (layer is not None and not isinstance(layer, nn.Linear)):
                given = self._behind_bounds(node)
                is_for_layers = given in of_layers and not self.is_for_float(given)
                if not is_for_layers and not self._is_output(given):
                    found[given] = None
        return list(found)

    def _layer_of(self, node: fx.Node) -> nn.Module | None:
        module = module_of(node, self._modules)
        return module if module is not None and self._is_layer(module) else None

    def _is_computed(self, node: fx.Node) -> bool:
        return node in self._tensors and is_float(node) and self.source(node) is not None

    def _has_weights(self, node: fx.Node) -> bool:
        """Whether a node is a layer, quantized or not; constants in products are no layer."""
        module, kind = module_of(node, self._modules), kind_of(node, self._modules)
        if module is None:
            return kind is not None and kind.product and kind.name != "matmul"
        if kind is not None:
            return kind.product
        return self._is_layer(module) or any(p.ndim > 1 for p in module.parameters())

    def _normalized_streams(self) -> set[fx.Node]:
        """Sums and concatenations that a normalization reads, and those connected with them."""
        neighbors: dict[fx.Node, list[fx.Node]] = {}
        for node in self._graph.nodes:
            if node not in self._tensors or not has_kind(node, "add", "cat"):
                continue
            neighbors[node] = []
            for source in map(self.source, node.all_input_nodes):
                if source in neighbors:
                    neighbors[source].append(node)
                    neighbors[node].append(source)
        waiting = [node for node in neighbors if self._is_normalized(node)]
        found: set[fx.Node] = set()
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += neighbors[node]
        return found

    def _is_float_sum(self, node: fx.Node) -> bool:
        """Whether a node adds or concatenates in float, in a stream or for softmax alone."""
        return node in self._float_sums or (has_kind(node, "add") and self._is_for_softmax(node))

    def _is_normalized(self, node: fx.Node) -> bool:
        """Whether a normalization with statistics of its own input reads a tensor, moved or not."""
        return any(
            has_kind(user, "norm", modules=self._modules)
            or (moves(user, self._modules) and self._is_normalized(user))
            for user in node.users
        )

    def _is_for_softmax(self, node: fx.Node) -> bool:
        """Whether only softmax takes a tensor, possibly moved, filled, or added to another."""
        return bool(node.users) and all(map(self._ends_in_softmax, node.users))

    def _ends_in_softmax(self, node: fx.Node) -> bool:
        if has_kind(node, "softmax", modules=self._modules):
            return True
        passes = moves(node, self._modules) or has_kind(node, "add", "fill")
        return passes and self._is_for_softmax(node)

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
