"""Bias correction: quantization must not shift the mean of any channel.

Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction, section
4.2, in its empirical form (appendix D): the shift is measured on images, before the activation
function, layer after layer, so that each is corrected behind those corrected before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
    """Add to the biases of a quantized unit's layers what quantization took from their means.

    Args:
        unit: quantized; left in the ``QUANTIZED`` phase.
        float_inputs: (N, ...) what the unit gets in the original network.
        quantized_inputs: (N, ...) what it gets behind the units quantized before.
        layers: of the unit, in the order of execution; one that has a correction, since an earlier
            unit calls it too, keeps it.
        store: of the inputs; says how many images there are in a forward pass.

    Returns:
        The layers that were corrected.
    """
    waiting = [layer for layer in layers if layer.bias_correction is None]
    set_phase(unit.module, Phase.FLOAT)
    wanted = _channel_means(unit, float_inputs, waiting, store)
    set_phase(unit.module, Phase.QUANTIZED)
    for layer in waiting:
        (mean,) = _channel_means(unit, quantized_inputs, [layer], store)
        layer.bias_correction = wanted[waiting.index(layer)] - mean
    return waiting


@dataclass
class _Sum:
    """Sum of a layer's outputs per channel, and of how many."""

    total: Tensor | None = None
    count: int = 0

    def add(self, module: nn.Module, inputs: object, outputs: Tensor) -> None:
        convolved = isinstance(module, LearnableLayer) and isinstance(module.layer, nn.Conv2d)
        channels = outputs.movedim(1 if convolved else -1, 0).flatten(1)
        total = channels.sum(1, dtype=torch.float64)
        self.total = total if self.total is None else self.total + total
        self.count += channels.shape[1]

    def mean(self) -> Tensor:
        assert self.total is not None, "a layer of a unit is called by it"
        return (self.total / self.count).float()


@torch.no_grad()
def _channel_means(
    unit: Unit, inputs: Tensor, layers: list[LearnableLayer], store: ActivationStore
) -> list[Tensor]:
    """Mean over images and positions of each layer's outputs, per channel (C,)."""
    sums = [_Sum() for _ in layers]
    with _hooked(layers, sums):
        for batch in inputs.split(store.batch_size):
            unit.module(batch.to(store.device))
    return [one.mean() for one in sums]


@contextmanager
def _hooked(layers: list[LearnableLayer], sums: list[_Sum]) -> Iterator[None]:
    hooks = [layer.register_forward_hook(one.add) for layer, one in zip(layers, sums, strict=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
