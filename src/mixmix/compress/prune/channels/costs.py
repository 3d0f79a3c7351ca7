"""Cost of a network with fewer channels, computed without building it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd

from mixmix.graph.channels.groups import ChannelGroup
from mixmix.graph.costs import count_layer_macs, count_macs, count_parameters

__all__ = ["ChannelCosts", "layer_widths"]


def layer_widths(layer: nn.Module) -> tuple[int, int]:
    """Input and output channels (or features) of a convolution or linear layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, _ConvNd)
    return layer.in_channels, layer.out_channels


class ChannelCosts:
    """MACs and parameters as functions of the number of elements that each group keeps.

    The cost of a layer is proportional to inputs times outputs, except for depthwise layers. All
    other costs are constant.
    """

    def __init__(
        self, model: nn.Module, input_shape: tuple[int, int, int], groups: Sequence[ChannelGroup]
    ) -> None:
        self.sizes = np.array([len(group.elements) for group in groups])
        modules = dict(model.named_modules())
        layers = {
            n: layer for n, layer in modules.items() if isinstance(layer, _ConvNd | nn.Linear)
        }
        position = {name: index for index, name in enumerate(layers)}
        widths = np.array([layer_widths(layer) for layer in layers.values()], dtype=float)
        inputs, outputs = widths.reshape(-1, 2).T
        # Fractions of a layer's inputs and outputs that belong to one element of a group.
        self._input_fraction = np.zeros((len(layers), len(groups)))
        self._output_fraction = np.zeros((len(layers), len(groups)))
        self._others = np.zeros(len(groups))  # parameters of other modules for one element
        own = {
            name: sum(p.numel() for p in module.parameters(recurse=False))
            for name, module in modules.items()
        } | {name: parameter.numel() for name, parameter in model.named_parameters()}
        for index, group in enumerate(groups):
            for part in group.parts:
                count = sum(map(len, part.indices)) / len(part.indices)
                row = position.get(part.layer)
                if row is None:
                    width = _width(model, part.layer)
                    self._others[index] += own.get(part.layer, 0) * count / width
                elif part.is_input:
                    self._input_fraction[row, index] += count / inputs[row]
                else:
                    self._output_fraction[row, index] += count / outputs[row]
        depthwise = [
            i for i, layer in enumerate(layers.values()) if _has_one_filter_per_group(layer)
        ]
        self._input_fraction[depthwise] = 0
        macs = count_layer_macs(model, input_shape)
        self._macs = np.array([macs.get(name, 0) for name in layers], dtype=float)
        self._weights = np.array([_numel(layer.weight) for layer in layers.values()], dtype=float)
        self._biases = np.array([_numel(layer.bias) for layer in layers.values()], dtype=float)
        self.dense_macs = count_macs(model, input_shape)
        self.dense_parameters = count_parameters(model)

    def macs(self, counts: np.ndarray) -> np.ndarray:
        """MACs for one image (...,), from the elements that each group keeps (..., groups)."""
        inputs, outputs, _ = self._removed(counts)
        saved = self._macs * (1 - (1 - inputs) * (1 - outputs))
        return self.dense_macs - saved.sum(-1)  # type: ignore[no-any-return]

    def parameters(self, counts: np.ndarray) -> np.ndarray:
        """Number of parameters (...,), from the elements that each group keeps (..., groups)."""
        inputs, outputs, removed = self._removed(counts)
        saved = self._weights * (1 - (1 - inputs) * (1 - outputs)) + self._biases * outputs
        others = removed @ self._others
        return self.dense_parameters - saved.sum(-1) - others  # type: ignore[no-any-return]

    def _removed(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        removed = self.sizes - np.asarray(counts)
        return removed @ self._input_fraction.T, removed @ self._output_fraction.T, removed


def _has_one_filter_per_group(layer: nn.Module) -> bool:
    return isinstance(layer, _ConvNd) and layer.groups == layer.out_channels > 1


def _numel(parameter: object) -> int:
    return parameter.numel() if isinstance(parameter, nn.Parameter) else 0


def _width(model: nn.Module, name: str) -> int:
    """Channels of a normalization layer, or of a parameter that belongs to no layer."""
    modules = dict(model.named_modules())
    if name not in modules:
        return max(dict(model.named_parameters())[name].shape)
    parameters = list(modules[name].parameters(recurse=False))
    return max((p.numel() for p in parameters), default=1)
