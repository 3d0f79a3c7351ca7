"""Reconstruction: learn rounding and step sizes that preserve the output of each unit.

AdaRound (Nagel et al. 2020) in the units of BRECQ (Li et al. 2021) with QDrop (Wei et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixmix._settings import Settings
from mixmix.compress.quantize import rounding_kernels
from mixmix.compress.quantize.dropping import mix_inputs
from mixmix.compress.quantize.learnable import (
    LearnableActivation,
    LearnableLayer,
    Phase,
    set_phase,
)
from mixmix.compress.quantize.rounding import Moments, RoundingRates
from mixmix.compress.unit_batches import draw_batches, images_in_step
from mixmix.graph.units import Unit, channel_axis
from mixmix.runtime.compiled import is_compilable, row_view
from mixmix.runtime.memory_layout import memory_layout
from mixmix.runtime.rates import cosine_decay

__all__ = ["ReconstructionSettings", "loss_gradient", "rates_at", "reconstruct_unit"]


@dataclass(frozen=True)
class ReconstructionSettings(Settings):
    """How units are reconstructed.

    Attributes:
        iterations: optimizer steps for each unit; 0 rounds to nearest.
        batch_size: largest number of images in a step.
        max_positions: largest number of positions in a step, summed over images: pixels of the
            unit's input or output, whichever has more. A step has at least eight images.
        rounding_rate: learning rate of the rounding, in steps of the grid.
        weight_scale_rate: relative learning rate of the scales of weights.
        scale_rate: relative learning rate of the step sizes of activations.
        rounding_regularization: final strength of the regularization that drives the rounding to
            0 or 1, relative to the direction of Adam.
        quantize_prob: probability that a value entering or inside a unit is quantized (QDrop).

    Raises:
        InputError: if a value is out of range.

    Examples:
        >>> settings = mixmix.ReconstructionSettings(iterations=100)
        >>> mixmix.Quantize("W4A4", reconstruction=settings).reconstruction.batch_size
        32
    """

    iterations: int = 240
    batch_size: int = 32
    max_positions: int = 2048
    rounding_rate: float = 2e-2
    weight_scale_rate: float = 1e-3
    scale_rate: float = 2e-3
    rounding_regularization: float = 2.0
    quantize_prob: float = 0.5

    def __post_init__(self) -> None:
        self._require_int("iterations", least=0)
        self._require_int("batch_size", "max_positions", least=1)
        self._require_range("rounding_rate", "weight_scale_rate", "scale_rate", low=0)
        self._require_range("rounding_regularization", low=0)
        self._require_range("quantize_prob", low=0, high=1)


def reconstruct_unit(
    unit: Unit,
    float_inputs: Tensor,
    quantized_inputs: Tensor,
    targets: Tensor,
    settings: ReconstructionSettings,
    *,
    generator: torch.Generator,
    on_step: Callable[[], None],
) -> None:
    """Learn the quantizers of a unit in place, and leave them in the ``QUANTIZED`` phase.

    Args:
        unit: a unit with learnable quantizers.
        float_inputs: (N, ...) inputs of the unit in the original network.
        quantized_inputs: (N, ...) its inputs in the quantized network.
        targets: (N, ...) its outputs in the original network.
        settings: iterations and rates.
        generator: CPU generator that draws the batches.
        on_step: called after every iteration.
    """
    layers = [m for m in unit.module.modules() if isinstance(m, LearnableLayer)]
    roundings = [layer.start_learning() for layer in layers]
    scales = _ActivationScales(unit)
    device = layers[0].layer.weight.device
    set_phase(unit.module, Phase.LEARN)
    float_inputs, quantized_inputs, targets = (
        t.contiguous(memory_format=memory_layout(t))
        for t in (float_inputs, quantized_inputs, targets)
    )
    batch_size = images_in_step(float_inputs, targets, settings)
    batches = draw_batches(len(targets), batch_size, generator=generator)
    for iteration, chosen in zip(range(settings.iterations), batches, strict=False):
        progress = iteration / settings.iterations
        inputs = mix_inputs(
            float_inputs, quantized_inputs, chosen, quantize_prob=settings.quantize_prob
        )
        outputs = unit.module(inputs.to(device))
        outputs.backward(loss_gradient(outputs.detach(), targets, chosen))
        rates = rates_at(progress, settings)
        for rounding in roundings:
            rounding.update(rates)
        scales.update(settings.scale_rate * cosine_decay(progress))
        on_step()
    for layer in layers:
        layer.finish_learning()
    scales.finish()
    set_phase(unit.module, Phase.QUANTIZED)


def rates_at(progress: float, settings: ReconstructionSettings) -> RoundingRates:
    """Rates at a fraction of the iterations: the regularization grows, the scales' rate decays."""
    return RoundingRates(
        fraction=settings.rounding_rate,
        scale=settings.weight_scale_rate * cosine_decay(progress),
        regularization=settings.rounding_regularization * progress,
    )


class _ActivationScales:
    """Optimizer of the step sizes of a unit's activations (LSQ, Esser et al. 2020)."""

    def __init__(self, unit: Unit) -> None:
        self.scales = [
            module.scale.requires_grad_(True)
            for module in unit.module.modules()
            if isinstance(module, LearnableActivation)
        ]
        self.moments = Moments(torch.zeros(len(self.scales)))

    @torch.no_grad()
    def update(self, rate: float) -> None:
        """Take a step of ``rate`` relative to each scale, and clear the gradients."""
        if not self.scales:
            return
        gradients = [scale.grad for scale in self.scales]
        present = [
            g if g is not None else torch.zeros_like(s)
            for g, s in zip(gradients, self.scales, strict=True)
        ]
        factors = 1 - rate * self.moments.update(torch.stack(present).cpu())
        for scale, factor in zip(self.scales, factors.tolist(), strict=True):
            scale.mul_(factor)
            scale.grad = None

    def finish(self) -> None:
        for scale in self.scales:
            scale.requires_grad_(False)


def loss_gradient(outputs: Tensor, targets: Tensor, chosen: Tensor) -> Tensor:
    """Gradient of BRECQ's squared error: summed over channels, averaged over images and positions.

    Args:
        outputs: (n, ...).
        targets: (N, ...).
        chosen: (n,) rows of the targets that the outputs are compared with.
    """
    factor = 2 * outputs.shape[channel_axis(outputs)] / outputs.numel()
    if not is_compilable(outputs, targets):
        return (outputs - targets[chosen].to(outputs.device)) * factor
    outputs = outputs.contiguous(memory_format=memory_layout(targets))
    gradient = torch.empty_like(outputs)
    rows = row_view(outputs), row_view(targets), chosen.numpy(), row_view(gradient)
    rounding_kernels.loss_gradient(*rows, np.float32(factor))
    return gradient
