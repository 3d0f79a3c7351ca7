"""What a network costs with fewer channels, without making it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from mixmix.graph.channels.groups import ChannelGroup
from mixmix.graph.costs import count_layer_macs, count_macs

__all__ = ["ChannelCosts"]


class ChannelCosts:
    """Multiplications and parameters as functions of how many elements each group keeps.

    Those of a layer are proportional to its inputs times its outputs, except where it works on
    each channel alone; what belongs to no layer stays as it is.

    Args:
        model: the dense network; it is not changed.
        input_shape: (C, H, W) of one image.
        groups: of its channels.
    """

    def __init__(
        self, model: nn.Module, input_shape: tuple[int, int, int], groups: Sequence[ChannelGroup]
    ) -> None:
        self.sizes = np.array([len(group.elements) for group in groups])
        layers = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
        }
        position = {name: index for index, name in enumerate(layers)}
        inputs = np.array([_inputs(layer) for layer in layers.values()], dtype=float)
        outputs = np.array([_outputs(layer) for layer in layers.values()], dtype=float)
        # Shares of a layer's inputs and outputs that go with one element of a group.
        self._input_share = np.zeros((len(layers), len(groups)))
        self._output_share = np.zeros((len(layers), len(groups)))
        self._others = np.zeros(len(groups))  # parameters that go with one element
        own = {
            name: sum(p.numel() for p in module.parameters(recurse=False))
            for name, module in model.named_modules()
        } | {name: parameter.numel() for name, parameter in model.named_parameters()}
        for index, group in enumerate(groups):
            for part in group.parts:
                count = sum(map(len, part.indices)) / len(part.indices)
                row = position.get(part.layer)
                if row is None:
                    width = _width(model, part.layer)
                    self._others[index] += own.get(part.layer, 0) * count / width
                elif part.is_input:
                    self._input_share[row, index] += count / inputs[row]
                else:
                    self._output_share[row, index] += count / outputs[row]
        depthwise = [i for i, layer in enumerate(layers.values()) if _is_depthwise(layer)]
        self._input_share[depthwise] = 0
        macs = count_layer_macs(model, input_shape)
        self._macs = np.array([macs.get(name, 0) for name in layers], dtype=float)
        self._weights = np.array([_numel(layer.weight) for layer in layers.values()], dtype=float)
        self._biases = np.array([_numel(layer.bias) for layer in layers.values()], dtype=float)
        self.dense_macs = count_macs(model, input_shape)
        self.dense_parameters = sum(p.numel() for p in model.parameters())

    def macs(self, kept: np.ndarray) -> np.ndarray:
        """Multiplications for one image, of each row of ``kept`` (..., groups)."""
        inputs, outputs, _ = self._removed(kept)
        saved = self._macs * (1 - (1 - inputs) * (1 - outputs))
        return self.dense_macs - saved.sum(-1)  # type: ignore[no-any-return]

    def parameters(self, kept: np.ndarray) -> np.ndarray:
        """Number of parameters, of each row of ``kept`` (..., groups)."""
        inputs, outputs, removed = self._removed(kept)
        saved = self._weights * (1 - (1 - inputs) * (1 - outputs)) + self._biases * outputs
        others = removed @ self._others
        return self.dense_parameters - saved.sum(-1) - others  # type: ignore[no-any-return]

    def _removed(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        removed = self.sizes - np.asarray(kept)
        return removed @ self._input_share.T, removed @ self._output_share.T, removed


def _inputs(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    assert isinstance(layer, nn.modules.conv._ConvNd)
    return layer.in_channels


def _outputs(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    assert isinstance(layer, nn.modules.conv._ConvNd)
    return layer.out_channels


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.conv._ConvNd) and layer.groups == layer.out_channels > 1


def _numel(parameter: object) -> int:
    return parameter.numel() if isinstance(parameter, nn.Parameter) else 0


def _width(model: nn.Module, name: str) -> int:
    """Channels of a normalization or of a parameter without a layer."""
    modules = dict(model.named_modules())
    if name not in modules:
        return max(dict(model.named_parameters())[name].shape)
    parameters = list(modules[name].parameters(recurse=False))
    return max((p.numel() for p in parameters), default=1)
