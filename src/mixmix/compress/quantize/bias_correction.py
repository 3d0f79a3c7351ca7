"""Bias correction: remove the shift that quantization causes in the mean of each channel.

Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction, section
4.2, in its empirical form (appendix D): the shift is measured on images, before the activation
function, one layer after another, with earlier layers already corrected.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixmix.compress.activation_store import ActivationStore
from mixmix.compress.quantize.learnable import LearnableLayer, Phase, set_phase
from mixmix.graph.units import Unit

__all__ = ["correct_biases"]


def correct_biases(
    unit: Unit,
    float_inputs: Tensor,
    quantized_inputs: Tensor,
    layers: list[LearnableLayer],
    *,
    store: ActivationStore,
) -> list[LearnableLayer]:
    """Set ``bias_correction`` of a unit's layers to the float mean minus the quantized mean.

    Args:
        unit: a quantized unit; left in the ``QUANTIZED`` phase.
        float_inputs: (N, ...) inputs of the unit in the original network.
        quantized_inputs: (N, ...) its inputs in the quantized network.
        layers: the layers of the unit in execution order. A layer that is shared with an earlier
            unit keeps the correction it has.
        store: sets the batch size and the device.

    Returns:
        The layers that were corrected.
    """
    uncorrected = [layer for layer in layers if layer.bias_correction is None]
    set_phase(unit.module, Phase.FLOAT)
    float_means = _channel_means(unit, float_inputs, uncorrected, store)
    set_phase(unit.module, Phase.QUANTIZED)
    for layer, float_mean in zip(uncorrected, float_means, strict=True):
        (mean,) = _channel_means(unit, quantized_inputs, [layer], store)
        layer.bias_correction = float_mean - mean
    return uncorrected


@dataclass
class _ChannelSum:
    """A forward hook that sums a layer's outputs for each channel."""

    total: Tensor | float = 0.0
    count: int = 0

    def add(self, module: nn.Module, inputs: object, outputs: Tensor) -> None:
        is_conv = isinstance(module, LearnableLayer) and isinstance(module.layer, nn.Conv2d)
        channels = outputs.movedim(1 if is_conv else -1, 0).flatten(1)
        self.total = self.total + channels.sum(1, dtype=torch.float64)
        self.count += channels.shape[1]

    def mean(self) -> Tensor:
        assert isinstance(self.total, Tensor), "the unit calls each of its layers"
        return (self.total / self.count).float()


@torch.no_grad()
def _channel_means(
    unit: Unit, inputs: Tensor, layers: list[LearnableLayer], store: ActivationStore
) -> list[Tensor]:
    """Mean of each layer's outputs over images and positions: (C,) for each layer."""
    sums = [_ChannelSum() for _ in layers]
    hooks = [layer.register_forward_hook(s.add) for layer, s in zip(layers, sums, strict=True)]
    try:
        for batch in inputs.split(store.batch_size):
            unit.module(batch.to(store.device))
    finally:
        for hook in hooks:
            hook.remove()
    return [s.mean() for s in sums]
