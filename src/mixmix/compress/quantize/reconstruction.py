"""Unit-wise reconstruction: learn rounding and step sizes so that each unit's output is kept.

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
from mixmix.compress.quantize.loss_weights import LOSSES
from mixmix.compress.quantize.rounding import Moments, RoundingRates
from mixmix.compress.unit_batches import draw_batches, images_in_step
from mixmix.errors import InputError
from mixmix.graph.units import Unit, channel_axis
from mixmix.runtime.compiled import is_compilable, row_view
from mixmix.runtime.memory_layout import memory_layout
from mixmix.runtime.rates import cosine_decay

__all__ = ["ReconstructionSettings", "loss_gradient", "rates_at", "reconstruct_unit"]


@dataclass(frozen=True)
class ReconstructionSettings(Settings):
    """How a unit is reconstructed.

    Attributes:
        iterations: optimizer steps for each unit; 0 rounds to nearest.
        batch_size: most images in a step.
        max_positions: most positions (pixels of the larger of a unit's input and output, summed
            over images) in a step, as long as eight images are left: units early in a network have
            few weights and many positions to learn them from.
        rounding_rate: learning rate of the rounding, in steps of the grid.
        weight_scale_rate: learning rate of the scales of weights, relative to each of them.
        scale_rate: learning rate of the step sizes of activations, relative to each of them.
        rounding_regularization: of the rounding toward 0 and 1 in the end, relative to the loss.
        quantize_prob: fraction of the values entering and inside a unit that are quantized (QDrop).
        loss: what a unit's outputs are weighed by: ``mse`` counts all alike, ``fisher`` and
            ``output`` by what they do to the prediction (see ``loss_weights``).

    Raises:
        InputError: if the loss is not known.
    """

    iterations: int = 240
    batch_size: int = 32
    max_positions: int = 2048
    rounding_rate: float = 2e-2
    weight_scale_rate: float = 1e-3
    scale_rate: float = 2e-3
    rounding_regularization: float = 2.0
    quantize_prob: float = 0.5
    loss: str = "mse"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")


def reconstruct_unit(
    unit: Unit,
    float_inputs: Tensor,
    quantized_inputs: Tensor,
    targets: Tensor,
    settings: ReconstructionSettings,
    *,
    importance: Tensor | None = None,
    generator: torch.Generator,
    on_step: Callable[[], None],
) -> None:
    """Learn the quantizers of one unit, in place.

    Args:
        unit: its quantizers are left in the ``QUANTIZED`` phase.
        float_inputs: (N, ...) what the unit gets in the original network.
        quantized_inputs: (N, ...) what it gets behind the units quantized before.
        targets: (N, ...) what it gives in the original network.
        settings: iterations and rates.
        importance: (N, ...) or (1, ...) weights of the squared error of the outputs; None for ones.
        generator: CPU generator for batches.
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
        outputs.backward(loss_gradient(outputs.detach(), targets, chosen, importance))
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
    """Rates after a fraction of the iterations: regularization grows, the scales settle."""
    return RoundingRates(
        fraction=settings.rounding_rate,
        scale=settings.weight_scale_rate * cosine_decay(progress),
        regularization=settings.rounding_regularization * progress,
    )


class _ActivationScales:
    """The step sizes of a unit's activations while they are learned (LSQ, Esser et al. 2020)."""

    def __init__(self, unit: Unit) -> None:
        self.scales = [
            module.scale.requires_grad_(True)
            for module in unit.module.modules()
            if isinstance(module, LearnableActivation)
        ]
        self.moments = Moments(torch.zeros(len(self.scales)))

    @torch.no_grad()
    def update(self, rate: float) -> None:
        """Take a step, ``rate`` times each scale, against the gradients, which are cleared."""
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


def loss_gradient(
    outputs: Tensor, targets: Tensor, chosen: Tensor, importance: Tensor | None = None
) -> Tensor:
    """Gradient for the outputs of their squared error against the chosen targets.

    The error is summed over channels, a mean over images and positions (BRECQ's).

    Args:
        outputs: (n, ...).
        targets: (N, ...).
        chosen: (n,) rows of the targets.
        importance: (N, ...) or (1, ...) weights of the squares; None for ones.
    """
    factor = 2 * outputs.shape[channel_axis(outputs)] / outputs.numel()
    if not is_compilable(outputs, targets):
        gradient = (outputs - targets[chosen].to(outputs.device)) * factor
        if importance is not None:
            factors = importance[chosen] if len(importance) > 1 else importance
            gradient *= factors.to(outputs.device)
        return gradient
    outputs = outputs.contiguous(memory_format=memory_layout(targets))
    gradient = torch.empty_like(outputs)
    rows = row_view(outputs), row_view(targets), chosen.numpy()
    if importance is None:
        rounding_kernels.loss_gradient(*rows, row_view(gradient), np.float32(factor))
    else:
        weights = row_view(importance.contiguous(memory_format=memory_layout(targets)))
        rounding_kernels.weighted_loss_gradient(
            *rows, weights, row_view(gradient), np.float32(factor)
        )
    return gradient
