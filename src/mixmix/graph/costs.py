"""Multiplications and activation sizes of networks."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from mixmix.graph.copies import detached_copy
from mixmix.graph.quantized import QuantizedLayer

__all__ = [
    "count_bytes",
    "count_layer_macs",
    "count_macs",
    "count_parameters",
    "largest_activation",
]


def count_macs(module: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulate operations of convolutions and matrix products for an image (C, H, W).

    Operations that PyTorch's ``FlopCounterMode`` does not count, such as additions and pooling,
    are left out. The module is not changed.
    """
    return int(_count_flops(module, input_shape).get_total_flops()) // 2


def count_layer_macs(module: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """``count_macs`` of every leaf module that has any, by name."""
    # In a container, since the counter calls a captured graph by the name of the original class.
    counts = _count_flops(nn.Sequential(module), input_shape).get_flop_counts()
    root = "Sequential.0."
    macs = {name: sum(flops.values()) // 2 for name, flops in counts.items()}
    return {
        name: macs[root + name]
        for name, layer in module.named_modules()
        if root + name in macs and not any(layer.children())
    }


@torch.no_grad()
def largest_activation(graph_module: fx.GraphModule, example: Tensor) -> int:
    """Number of values per image of a graph's largest activation, on example images (N, ...)."""
    sizes = [1]

    class Sizes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result: object = super().run_node(n)
            if isinstance(result, Tensor):
                sizes.append(result.numel() // len(example))
            return result

    Sizes(graph_module).run(example)
    return max(sizes)


@torch.no_grad()
def _count_flops(module: nn.Module, input_shape: tuple[int, int, int]) -> FlopCounterMode:
    copied = detached_copy(module).eval()
    tensors = [*copied.parameters(), *copied.buffers()]
    image = torch.zeros(1, *input_shape, device=tensors[0].device if tensors else None)
    counter = FlopCounterMode(display=False)
    with counter:
        copied(image)
    return counter


def count_bytes(module: nn.Module) -> int:
    """Bytes of the state of a network in memory."""
    return sum(each.numel() * each.element_size() for each in module.state_dict().values())


def count_parameters(module: nn.Module) -> int:
    """Weights and biases, in floats or as integers of quantized layers; shared ones count once."""
    count = sum(parameter.numel() for parameter in module.parameters())
    for layer in module.modules():
        if isinstance(layer, QuantizedLayer):
            count += layer.integers.numel() + (0 if layer.bias is None else layer.bias.numel())
    return count
