"""Multiplications of a network and of its layers."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_layer_macs", "count_macs"]


def count_macs(module: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulate operations of the convolutions and products for one image (C, H, W).

    The module is not changed. Operations that PyTorch's ``FlopCounterMode`` does not know, such
    as additions and pooling, count as nothing.
    """
    return int(_count_flops(module, input_shape).get_total_flops()) // 2


def count_layer_macs(module: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """As ``count_macs``, for each layer without parts that has any, by its name in ``module``."""
    # In a container, since a captured graph is counted under the name of what was captured.
    counts = _count_flops(nn.Sequential(module), input_shape).get_flop_counts()
    root = "Sequential.0."
    macs = {name: sum(flops.values()) // 2 for name, flops in counts.items()}
    return {
        name: macs[root + name]
        for name, layer in module.named_modules()
        if root + name in macs and not any(layer.children())
    }


@torch.no_grad()
def _count_flops(module: nn.Module, input_shape: tuple[int, int, int]) -> FlopCounterMode:
    copied = copy.deepcopy(module).eval()
    tensors = [*copied.parameters(), *copied.buffers()]
    image = torch.zeros(1, *input_shape, device=tensors[0].device if tensors else None)
    counter = FlopCounterMode(display=False)
    with counter:
        copied(image)
    return counter
