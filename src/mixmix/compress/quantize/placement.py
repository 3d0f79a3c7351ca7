"""Where quantizers belong in a graph, so that integer kernels run from its input to its output.

Runtimes have integer kernels for layers, for operations that join or pool tensors, and for those
that only move values. A kernel takes what is quantized and narrows what it gives in the quantizer
right behind it, which swallows a ReLU or a clamp on the way. Hence tensors are quantized where they
enter a layer, where they enter and leave what joins or pools, and where they leave a convolution
(a linear layer's kernel gives floats as well). All other functions, such as SiLU, run in floats
between two quantizers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from mixmix.graph.capture import ADDITIONS, CONCATENATIONS, is_call_to, module_of

__all__ = ["Operands"]

_aten = torch.ops.aten

# They only move values or choose among them: quantizing before them is the same as quantizing
# after them, and lets integer kernels join the quantizer to the layer before.
_MOVING_MODULES = (
    nn.ChannelShuffle,
    nn.Dropout,
    nn.Dropout2d,
    nn.Flatten,
    nn.Identity,
    nn.MaxPool2d,
    nn.ZeroPad2d,
)
_MOVING_CALLS = (
    *(F.dropout, F.max_pool2d, F.channel_shuffle),
    *(torch.flatten, torch.permute, torch.reshape, torch.transpose, torch.channel_shuffle),
    *("contiguous", "flatten", "permute", "reshape", "transpose", "view"),
    *(_aten.contiguous, _aten.flatten, _aten.permute, _aten.reshape, _aten.transpose, _aten.view),
    *(_aten.channel_shuffle, _aten.dropout, _aten.max_pool2d, _aten.slice),
)
_SPLITS = (
    *(torch.chunk, torch.split, "chunk", "split"),
    *(_aten.chunk, _aten.split, _aten.split_with_sizes),
)
# Integer kernels swallow them where a quantizer follows.
_BOUNDING_MODULES = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
_BOUNDING_CALLS = (
    *(torch.relu, torch.relu_, F.relu, F.relu_, F.relu6, F.hardtanh, F.hardtanh_, torch.clamp),
    *("relu", "relu_", "clamp", "clamp_"),
    *(_aten.relu, _aten.relu_, _aten.relu6, _aten.hardtanh, _aten.hardtanh_),
    *(_aten.clamp, _aten.clamp_),
)
# Integer kernels exist for them if what they take and what they give is quantized.
_JOINING_MODULES = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Sigmoid)
_JOINING_CALLS = (
    *(F.adaptive_avg_pool2d, F.avg_pool2d, _aten.adaptive_avg_pool2d, _aten.avg_pool2d),
    *(torch.sigmoid, torch.sigmoid_, F.sigmoid, "sigmoid", "sigmoid_"),
    *(_aten.sigmoid, _aten.sigmoid_),
)
_PRODUCTS = (
    *(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"),
    *(_aten.mul, _aten.mul_),
)
_MEANS = (torch.mean, "mean", _aten.mean)
_SIZES = (getattr, "dim", "numel", "size", _aten.sym_size)


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
                not is_call_to(node, *_SIZES)
                and any(operand in self._tensors for operand in node.all_input_nodes)
            ):
                self._tensors.add(node)

    def layers(self) -> list[fx.Node]:
        """Calls to layers, in order of execution."""
        return [node for node in self._graph.nodes if self._layer_of(node) is not None]

    def source(self, node: Any) -> fx.Node | None:
        """The tensor that ``node`` only moves, itself if it moves none, or None for parameters."""
        assert isinstance(node, fx.Node)
        while self._moves(node):
            node = node.args[0]
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
            operands = self._joined_operands(node)
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

    def _calls(self, node: fx.Node, kinds: tuple[type[nn.Module], ...]) -> bool:
        return isinstance(module_of(node, self._modules), kinds)

    def _moves(self, node: fx.Node) -> bool:
        if self._calls(node, _MOVING_MODULES) or is_call_to(node, *_MOVING_CALLS, *_SPLITS):
            return True
        if is_call_to(node, _aten.constant_pad_nd):
            return _argument(node, 2, "value") in (None, 0)
        if is_call_to(node, F.pad, _aten.pad):  # zero is a level of every quantizer
            constant = _argument(node, 2, "mode") in (None, "constant")
            return constant and _argument(node, 3, "value") in (None, 0)
        if is_call_to(node, operator.getitem):
            of, index = node.args
            if isinstance(of, fx.Node) and is_call_to(of, *_SPLITS):
                return True
            return isinstance(index, tuple) and all(
                one is None or one is Ellipsis or isinstance(one, slice) for one in index
            )
        return False

    def _joined_operands(self, node: fx.Node) -> list[fx.Node]:
        """The operands of what joins or pools tensors; none for other operations."""
        operands = node.all_input_nodes
        if self._calls(node, _JOINING_MODULES) or is_call_to(node, *_JOINING_CALLS):
            return operands[:1]
        if is_call_to(node, *_MEANS):
            axes = _argument(node, 1, "dim")
            over_places = isinstance(axes, Sequence) and sorted(axes) in ([2, 3], [-2, -1])
            return operands[:1] if over_places else []
        if is_call_to(node, *CONCATENATIONS):
            return operands
        if is_call_to(node, *ADDITIONS, *_PRODUCTS):
            computed = [one for one in operands if one in self._tensors and self.source(one)]
            return operands if len(computed) == len(operands) == 2 else []
        return []

    def _behind_bounds(self, node: fx.Node) -> fx.Node:
        """Where what a kernel gives is narrowed: behind the ReLU or clamp that alone takes it."""
        while len(node.users) == 1:
            (user,) = node.users
            if not (self._calls(user, _BOUNDING_MODULES) or is_call_to(user, *_BOUNDING_CALLS)):
                break
            node = user
        return node

    def _is_output(self, node: fx.Node) -> bool:
        """Whether a tensor is moved to the output of the graph, and goes nowhere else."""
        waiting = [node]
        while waiting:
            for user in waiting.pop().users:
                if self._moves(user):
                    waiting.append(user)
                elif user.op != "output":
                    return False
        return True


def _argument(node: fx.Node, position: int, name: str) -> Any:
    """The argument at a position or of a name, or None."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)
