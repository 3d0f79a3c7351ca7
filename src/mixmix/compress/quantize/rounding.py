"""Learning which way each weight is rounded, and the scales of the grid with it.

AdaRound (Nagel et al. 2020) learns a fraction in [0, 1] by which each weight lies above the level
below it; Genie (Jeon et al. 2023) learns the scales jointly, with the levels held. Here the
fraction is the variable itself, clipped, where AdaRound passes it through a stretched sigmoid; and
what drives it to 0 or 1 acts beside Adam's direction, as decoupled weight decay does (Loshchilov &
Hutter 2019), so that its strength needs no tuning to the size of the loss or of the unit.
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
        """Take a gradient in; returns the direction, about 1 in size where gradients agree."""
        beta1, beta2 = _BETAS
        self.num_updates += 1
        self.first.lerp_(gradient, 1 - beta1)
        self.second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        unbias1, unbias2 = self.corrections()
        return self.first * unbias1 / ((self.second * unbias2).sqrt() + _TINY)

    def corrections(self) -> tuple[float, float]:
        """Factors that make the moments unbiased."""
        return (
            1 / (1 - _BETAS[0] ** self.num_updates),
            1 / (1 - _BETAS[1] ** self.num_updates),
        )


@dataclass(frozen=True)
class RoundingRates:
    """How far a step goes.

    Attributes:
        fraction: of the way from one level to the next, per unit of Adam's direction.
        scale: of each scale, relative to it.
        regularization: toward 0 and 1, growing from none at 1/2 to this much, against a direction
            of 1.
    """

    fraction: float
    scale: float
    regularization: float


class SoftRounding:
    """The weights of a layer between two levels of their grid.

    Args:
        weight: (out, ...) the float weights; they are where the fractions start.
        grid: its levels stay.
        learn_scale: adapt the scales of the channels, each for itself.
        removed: bool of the weight's shape, True where it is zero and is to stay so; None where
            nothing is. Zero must be a level there.

    Attributes:
        weight: (out, ...) the soft weights, a leaf that the loss is differentiated for.
    """

    def __init__(
        self,
        weight: Tensor,
        grid: WeightGrid,
        *,
        learn_scale: bool,
        removed: Tensor | None = None,
    ) -> None:
        weight = weight.detach().contiguous(memory_format=memory_layout(weight))
        position = grid.position(weight).clamp(0, grid.largest)
        self.learn_scale = learn_scale
        self.removed = removed
        self.grid = replace(grid, scale=grid.scale.clone())
        # At the highest level too there is a level above the floor.
        self.floor = position.floor().clamp(max=grid.largest - 1)
        self.fraction = position - self.floor
        self.weight = grid.value(position).requires_grad_(True)
        self.fraction_moments, self.scale_moments = Moments(self.fraction), Moments(grid.scale)
        self._vectors = [t.flatten().float() for t in (grid.step, grid.offset)]

    def update(self, rates: RoundingRates) -> None:
        """Take a step against the gradient in ``weight.grad``, which is cleared."""
        gradient = self.weight.grad
        assert gradient is not None
        if self.removed is not None:
            # At a level, the regularization holds what no gradient moves.
            gradient = gradient.masked_fill(self.removed, 0)
        if not self.learn_scale:
            rates = replace(rates, scale=0.0)
        if is_compilable(self.weight, self.grid.scale):
            self._update_fused(gradient, rates)
        else:
            self._update_plain(gradient, rates)
        self.weight.grad = None

    def rounded(self) -> tuple[WeightGrid, Tensor]:
        """The grid with its learned scales, and the level of each weight."""
        return self.grid, self.floor + (self.fraction >= 0.5).float()

    @torch.no_grad()
    def _update_plain(self, gradient: Tensor, rates: RoundingRates) -> None:
        # d loss / d log(scale), and d loss / d fraction but for a factor that Adam does not see.
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
        matrices = (
            gradient,
            self.weight,
            self.floor,
            self.fraction,
            fractions.first,
            fractions.second,
        )
        vectors = (self.grid.scale, scales.first, scales.second, *self._vectors)
        constants = (
            (rates.fraction, rates.scale, rates.regularization),
            _BETAS,
            fractions.corrections(),
        )
        rounding_kernels.round_step(
            *[
                *map(row_view, matrices),
                *map(flat_view, vectors),
                *(np.array(values, np.float32) for values in constants),
            ]
        )
