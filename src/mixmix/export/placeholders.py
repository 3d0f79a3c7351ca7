"""Placeholders for quantized modules during export."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer

__all__ = ["with_placeholders"]


def with_placeholders(
    model: nn.Module,
    *,
    activation: Callable[[QuantizedActivation], nn.Module],
    layer: Callable[[QuantizedLayer], nn.Module],
) -> nn.Module:
    """A copy on the CPU, in eval mode, with replaced quantizers and quantized layers.

    Args:
        model: it is not changed.
        activation: returns the placeholder of a quantizer.
        layer: returns the placeholder of a layer.
    """
    # A shared module stays one module, and its weights are stored once.
    replaced: dict[nn.Module, nn.Module] = {}

    def placeholder(module: nn.Module) -> nn.Module:
        if module not in replaced:
            if isinstance(module, QuantizedActivation):
                replaced[module] = activation(module)
            elif isinstance(module, QuantizedLayer):
                replaced[module] = layer(module)
            else:
                replaced[module] = module
                # Not named_children, which skips the second occurrence of a shared module.
                for name, child in list(module._modules.items()):
                    if child is not None:
                        setattr(module, name, placeholder(child))
        return replaced[module]

    return placeholder(copy.deepcopy(model).cpu().eval()).eval()
