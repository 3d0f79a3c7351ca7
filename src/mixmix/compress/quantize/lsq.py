"""Quantizers with learned step sizes for quantization-aware training (LSQ, Esser et al. 2020).

Parameters are in units of their own: weights in initial scales of their channel, biases in the
standard deviation of a sum of such weights, scales as logarithms. A learning rate then has the same
effect in every channel, even if magnitudes differ, as in depthwise networks with folded BatchNorm.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mixmix.compress.quantize.dropping import fake_quantize
from mixmix.compress.quantize.learnable import LearnableActivation, LearnableLayer
from mixmix.compress.quantize.quantizers import WeightGrid
from mixmix.graph.pointwise import apply_layer
from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer

__all__ = ["StepSizeActivation", "StepSizeLayer", "quantize_weight", "scale_gradient"]

# Distance of initial weights from the ends of the grid, in steps.
_MARGIN = 0.01


def quantize_weight(weight: Tensor, grid: WeightGrid) -> Tensor:
    """The nearest values of the grid, with the gradients of LSQ for weights and scales.

    With ``p`` the position of a weight on the grid and ``q`` the clamped and rounded position, the
    gradient for the weight is 1 if ``p`` is on the grid, else 0 (eq. 5). For the scale it is
    ``value(q) / scale``, minus ``weight / scale`` if ``p`` is on the grid (eq. 3).

    Args:
        weight: (out, ...).
        grid: a grid whose scale (out, 1, ...) may require gradients.
    """
    position = grid.position(weight).clamp(0, grid.largest)
    return grid.value(position + (position.round() - position).detach())


def scale_gradient(tensor: Tensor, factor: float) -> Tensor:
    """Identity whose gradient is multiplied by ``factor``."""
    scaled = tensor * factor
    return scaled + (tensor - scaled).detach()


class StepSizeLayer(nn.Module):
    """A layer whose weights, bias and scales are trained, starting at a reconstructed layer.

    Parameters: ``weight`` and ``bias`` in their units, and ``log_scale`` (out, 1, ...), the
    logarithm of the scales relative to the initial ones.

    Args:
        learned: a layer whose rounding is finished; each weight starts at its rounded level.
    """

    unit: Tensor
    step: Tensor
    offset: Tensor

    def __init__(self, learned: LearnableLayer) -> None:
        super().__init__()
        self.bits, grid, layer = learned.bits, learned.grid, learned.layer
        self._layer = [layer]  # in a list, so that its parameters are not registered
        for name, tensor in (("unit", grid.scale), ("step", grid.step), ("offset", grid.offset)):
            self.register_buffer(name, tensor.detach().clone())
        # Weights start at their level: from their float values, the first steps would undo the
        # rounding. Outside of the grid they would get no gradient.
        q = learned.q.clamp(_MARGIN, grid.largest - _MARGIN)
        self.mask = learned.mask
        self.weight = nn.Parameter(grid.value(q) / grid.scale)
        scales = grid.scale if learned.per_channel else grid.scale[:1]
        self.log_scale = nn.Parameter(torch.zeros_like(scales))
        self.symmetric = grid.symmetric
        self.bias, bias = None, learned.bias()
        if bias is not None:
            self.bias = nn.Parameter(bias.detach() / self._bias_unit())
        num_weights = layer.weight.numel() // scales.numel()
        self._gradient_factor = (num_weights * (2 ** (self.bits - 1) - 1)) ** -0.5

    def _bias_unit(self) -> Tensor:
        """(out,) standard deviation of the sum of one step of all weights with random signs."""
        num_inputs = self._layer[0].weight[0].numel()
        return self.unit.flatten() * math.sqrt(num_inputs)

    def _float_weight(self) -> Tensor:
        """(out, ...) weights before quantization; pruned ones are zero and get no gradient."""
        weight = self.weight * self.unit
        return weight if self.mask is None else weight.masked_fill(~self.mask, 0)

    def grid(self) -> WeightGrid:
        """The grid with its current scales."""
        log_scale = scale_gradient(self.log_scale, self._gradient_factor)
        scale = self.unit * log_scale.exp()
        return WeightGrid(self.bits, scale, self.step, self.offset, self.symmetric)

    def forward(self, x: Tensor) -> Tensor:
        weight = quantize_weight(self._float_weight(), self.grid())
        bias = None if self.bias is None else self.bias * self._bias_unit()
        return apply_layer(self._layer[0], x, weight, bias)

    @torch.no_grad()
    def deployed(self) -> QuantizedLayer:
        """The final layer with integer weights."""
        grid = self.grid()
        integers = grid.integers(grid.nearest(self._float_weight()))
        return QuantizedLayer(
            self._layer[0],
            integers,
            grid.scale,
            self.bits,
            zero_point=None if grid.symmetric else grid.zero_point,
            bias=None if self.bias is None else self.bias * self._bias_unit(),
        )


class StepSizeActivation(nn.Module):
    """An activation quantizer whose step size is trained; its zero point is fixed.

    Parameter: ``log_scale`` (), the logarithm of the step size relative to the initial one.
    """

    unit: Tensor
    zero_point: Tensor

    def __init__(self, learned: LearnableActivation) -> None:
        super().__init__()
        self.bits = learned.bits
        self.register_buffer("unit", learned.scale.detach().clone())
        self.register_buffer("zero_point", learned.zero_point.detach().clone())
        self.log_scale = nn.Parameter(torch.zeros_like(learned.scale))

    def scale(self) -> Tensor:
        """() the current step size."""
        return self.unit * self.log_scale.exp()

    def forward(self, x: Tensor) -> Tensor:
        # The number of features in the paper, N_F, is that of one image.
        factor = (x[0].numel() * (2**self.bits - 1)) ** -0.5
        return fake_quantize(
            x, scale_gradient(self.scale(), factor), self.zero_point, self.bits, quantize_prob=1
        )

    def deployed(self) -> QuantizedActivation:
        """The final quantizer."""
        return QuantizedActivation(self.scale(), self.zero_point, self.bits)
