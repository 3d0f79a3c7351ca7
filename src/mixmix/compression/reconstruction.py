"""Unit-wise reconstruction: learn rounding and step sizes so that each unit's output is kept.

AdaRound (Nagel et al. 2020) in the units of BRECQ (Li et al. 2021) with QDrop (Wei et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mixmix.compression.learnable import (
    LearnableActivation,
    LearnableLayer,
    Phase,
    random_mask,
    set_phase,
)
from mixmix.compression.units import Unit

__all__ = ["ReconstructionSettings", "reconstruct_unit", "run_in_batches"]

# Regularisation of the rounding starts after this share of the iterations, with an exponent that
# falls from the first to the second value (BRECQ's published values).
_WARM_UP, _BETA = 0.2, (20.0, 2.0)


@dataclass(frozen=True)
class ReconstructionSettings:
    """How a unit is reconstructed.

    Attributes:
        iterations: optimiser steps for each unit; 0 rounds to nearest.
        batch_size: images in a step.
        rounding_rate: learning rate of the rounding (Adam).
        scale_rate: learning rate of the step sizes, relative to each of them.
        roundness_weight: of the term that drives the rounding to 0 or 1.
        keep_probability: share of the values entering and inside a unit that are quantized (QDrop).
    """

    iterations: int = 500
    batch_size: int = 32
    rounding_rate: float = 1e-2
    scale_rate: float = 2e-3
    roundness_weight: float = 0.01
    keep_probability: float = 0.5


def run_in_batches(module: Callable[[Tensor], Tensor], inputs: Tensor, batch_size: int) -> Tensor:
    """Outputs of ``module`` for all inputs (N, ...), without gradients."""
    with torch.no_grad():
        return torch.cat([module(batch) for batch in inputs.split(batch_size)])


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
    """Learn the quantizers of one unit, in place.

    Args:
        unit: its quantizers are left in the ``QUANTIZED`` phase.
        float_inputs: (N, ...) what the unit gets in the original network.
        quantized_inputs: (N, ...) what it gets behind the units quantized before.
        targets: (N, ...) what it gives in the original network.
        settings: iterations and rates.
        generator: CPU generator for batches.
        on_step: called after every iteration.
    """
    layers = [m for m in unit.module.modules() if isinstance(m, LearnableLayer)]
    activations = [m for m in unit.module.modules() if isinstance(m, LearnableActivation)]
    roundings = [layer.start_learning() for layer in layers]
    scales = [activation.scale.requires_grad_(True) for activation in activations]
    rounding_optimizer = torch.optim.Adam(roundings, lr=settings.rounding_rate)
    scale_optimizer = (
        torch.optim.Adam([{"params": [scale]} for scale in scales]) if scales else None
    )
    set_phase(unit.module, Phase.LEARN)
    rates = [settings.scale_rate * scale.item() for scale in scales]
    for iteration in range(settings.iterations):
        progress = iteration / settings.iterations
        chosen = torch.randint(len(targets), (settings.batch_size,), generator=generator)
        inputs = quantized_inputs[chosen]
        if settings.keep_probability < 1:
            mask = random_mask(inputs, settings.keep_probability)
            inputs = torch.lerp(float_inputs[chosen], inputs, mask)
        loss = _output_loss(unit.module(inputs), targets[chosen])
        if progress >= _WARM_UP:
            share = (progress - _WARM_UP) / (1 - _WARM_UP)
            beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 - share)
            roundness = torch.stack([layer.roundness_loss(beta) for layer in layers]).sum()
            loss = loss + settings.roundness_weight * roundness
        rounding_optimizer.zero_grad()
        if scale_optimizer is not None:
            scale_optimizer.zero_grad()
            for group, rate in zip(scale_optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * progress))
        loss.backward()
        rounding_optimizer.step()
        if scale_optimizer is not None:
            scale_optimizer.step()
        on_step()
    for layer in layers:
        layer.finish_learning()
    for scale in scales:
        scale.requires_grad_(False)
    set_phase(unit.module, Phase.QUANTIZED)


def _output_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error summed over channels, a mean over images and places (BRECQ's)."""
    return F.mse_loss(outputs, targets) * outputs.shape[1]
