"""Learned rounding of weights, and of the scales of their grid.

AdaRound (Nagel et al. 2020) learns by which fraction in [0, 1] each weight lies above its lower
level; Genie (Jeon et al. 2023) learns the scales jointly. Here the fraction itself is the variable
and is clipped to [0, 1], where AdaRound uses a stretched sigmoid. The regularization toward 0 and 1
is added to Adam's direction, like decoupled weight decay (Loshchilov & Hutter 2019), so that its
strength does not depend on the magnitude of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mixmix.compress.quantize import rounding_kernels
from mixmix.compress.quantize.quantizers import WeightGrid
from mixmix.runtime.compiled import flat_view, is_compilable, row_view
from mixmix.runtime.memory_layout import memory_layout

__all__ = ["Moments", "RoundingRates", "SoftRounding"]

_BETAS = (0.9, 0.99)
_TINY = 1e-12


class Moments:
    """Adam's running moments of a gradient (Kingma & Ba 2015), for tensors shaped ``like``."""

    def __init__(self, like: Tensor) -> None:
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)
        self.num_updates = 0

    def update(self, gradient: Tensor) -> Tensor:
        """Update the moments; returns Adam's direction, about 1 in size if gradients agree."""
        beta1, beta2 = _BETAS
        self.num_updates += 1
        self.first.lerp_(gradient, 1 - beta1)
        self.second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        unbias1, unbias2 = self.corrections()
        return self.first * unbias1 / ((self.second * unbias2).sqrt() + _TINY)

    def corrections(self) -> tuple[float, float]:
        """Bias corrections of the moments."""
        return (
            1 / (1 - _BETAS[0] ** self.num_updates),
            1 / (1 - _BETAS[1] ** self.num_updates),
        )


@dataclass(frozen=True)
class RoundingRates:
    """Learning rates of a step.

    Attributes:
        fraction: rate of the fractions, in steps of the grid.
        scale: relative rate of the scales.
        regularization: strength at 0 and 1, relative to Adam's direction; zero at 1/2.
    """

    fraction: float
    scale: float
    regularization: float


class SoftRounding:
    """Weights of a layer between two levels of their grid.

    Args:
        weight: (out, ...) float weights that set the initial fractions.
        grid: grid whose levels are kept.
        learn_scale: learn the scale of each channel.
        mask: bool tensor of the weight's shape, True where a weight is kept; pruned weights stay
            zero, which must be a level of the grid. None without pruning.

    Attributes:
        weight: (out, ...) soft weights, a leaf with a gradient.
    """

    def __init__(
        self,
        weight: Tensor,
        grid: WeightGrid,
        *,
        learn_scale: bool,
        mask: Tensor | None = None,
    ) -> None:
        weight = weight.detach().contiguous(memory_format=memory_layout(weight))
        position = grid.position(weight).clamp(0, grid.largest)
        self.learn_scale = learn_scale
        self.mask = mask
        self.grid = replace(grid, scale=grid.scale.clone())
        # The floor of the highest level is the level below it.
        self.floor = position.floor().clamp(max=grid.largest - 1)
        self.fraction = position - self.floor
        self.weight = grid.value(position).requires_grad_(True)
        self.fraction_moments, self.scale_moments = Moments(self.fraction), Moments(grid.scale)
        self._vectors = [t.flatten().float() for t in (grid.step, grid.offset)]

    def update(self, rates: RoundingRates) -> None:
        """Take a step with the gradient in ``weight.grad``, and clear it."""
        gradient = self.weight.grad
        assert gradient is not None
        if self.mask is not None:  # without a gradient, the regularization keeps a weight at zero
            gradient = gradient.masked_fill(~self.mask, 0)
        if not self.learn_scale:
            rates = replace(rates, scale=0.0)
        if is_compilable(self.weight, self.grid.scale):
            self._update_fused(gradient, rates)
        else:
            self._update_plain(gradient, rates)
        self.weight.grad = None

    def rounded(self) -> tuple[WeightGrid, Tensor]:
        """The grid with its learned scales, and the position of each weight on it."""
        return self.grid, self.floor + (self.fraction >= 0.5).float()

    @torch.no_grad()
    def _update_plain(self, gradient: Tensor, rates: RoundingRates) -> None:
        # d loss / d log(scale). For fractions, Adam cancels the factor scale * step.
        by_scale = (gradient * self.weight).flatten(1).sum(1).view_as(self.grid.scale)
        self.grid.scale.mul_(1 - rates.scale * self.scale_moments.update(by_scale))
        direction = self.fraction_moments.update(gradient)
        regularization = rates.regularization * (2 * self.fraction - 1)
        self.fraction.sub_(rates.fraction * (direction - regularization)).clamp_(0, 1)
        self.weight.copy_(self.grid.value(self.floor + self.fraction))

    def _update_fused(self, gradient: Tensor, rates: RoundingRates) -> None:
        if gradient.stride() != self.weight.stride():
            gradient = torch.empty_like(self.weight).copy_(gradient)
        fractions, scales = self.fraction_moments, self.scale_moments
        fractions.num_updates += 1
        moments = (fractions.first, fractions.second)
        matrices = (gradient, self.weight, self.floor, self.fraction, *moments)
        vectors = (self.grid.scale, scales.first, scales.second, *self._vectors)
        constants = (
            (rates.fraction, rates.scale, rates.regularization),
            _BETAS,
            fractions.corrections(),
        )
        rounding_kernels.round_step(
            *map(row_view, matrices),
            *map(flat_view, vectors),
            *(np.array(values, np.float32) for values in constants),
        )
