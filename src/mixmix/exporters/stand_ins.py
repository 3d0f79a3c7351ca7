"""Copies of models in which quantized modules are replaced by what an export format has."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

from mixmix.compression.quantization.quantized import QuantizedActivation, QuantizedLayer

__all__ = ["with_stand_ins"]


def with_stand_ins(
    model: nn.Module,
    *,
    activation: Callable[[QuantizedActivation], nn.Module],
    layer: Callable[[QuantizedLayer], nn.Module],
) -> nn.Module:
    """A copy on the CPU, in eval mode, its quantized modules replaced.

    Args:
        model: it is not changed.
        activation: makes the module in place of a quantizer.
        layer: makes the module in place of a layer.
    """
    # A module used in two places stays one module, and its weights are stored once.
    replaced: dict[nn.Module, nn.Module] = {}

    def stand_in(module: nn.Module) -> nn.Module:
        if module not in replaced:
            if isinstance(module, QuantizedActivation):
                replaced[module] = activation(module)
            elif isinstance(module, QuantizedLayer):
                replaced[module] = layer(module)
            else:
                replaced[module] = module
                # Not named_children, which leaves out the second place of a shared module.
                for name, child in list(module._modules.items()):
                    if child is not None:
                        setattr(module, name, stand_in(child))
        return replaced[module]

    return stand_in(copy.deepcopy(model).cpu().eval()).eval()
