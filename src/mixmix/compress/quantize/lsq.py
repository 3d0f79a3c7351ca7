"""Quantizers while a network is trained: learned step sizes (LSQ, Esser et al. 2020).

Everything is learned in units of its own: weights in steps of their channel's grid as it was found,
biases in what a step of all weights of the channel sums up to, scales as logarithms. A learning
rate then means the same in every channel of every layer, however far apart their weights are, as
they are in depthwise networks whose BatchNorm is folded.
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

# How far from the ends of the grid weights start, in steps.
_MARGIN = 0.01


def quantize_weight(weight: Tensor, grid: WeightGrid) -> Tensor:
    """The nearest value of the grid, with the gradients of LSQ for weights and scales.

    With ``p`` the position of a weight on its grid and ``q`` that position clamped and rounded, the
    gradient for the weight is 1 where ``p`` lies on the grid and 0 outside (eq. 5); for the scale
    it is ``value(q) / scale``, less ``weight / scale`` where ``p`` lies on the grid (eq. 3).

    Args:
        weight: (out, ...).
        grid: its scale (out, 1, ...) may require gradients.
    """
    position = grid.position(weight).clamp(0, grid.largest)
    return grid.value(position + (position.round() - position).detach())


def scale_gradient(tensor: Tensor, factor: float) -> Tensor:
    """The same values, with ``factor`` times the gradient."""
    scaled = tensor * factor
    return scaled + (tensor - scaled).detach()


class StepSizeLayer(nn.Module):
    """A layer whose weights are quantized in training, from where reconstruction left them.

    Parameters: ``weight`` and ``bias`` in their units, and ``log_scale`` (out, 1, ...), how far
    scales are from those that were found.

    Args:
        learned: in the ``QUANTIZED`` phase, its rounding finished. A weight starts at the level it
            was rounded to.
    """

    unit: Tensor
    step: Tensor
    offset: Tensor

    def __init__(self, learned: LearnableLayer) -> None:
        super().__init__()
        self.bits, grid, layer = learned.bits, learned.grid, learned.layer
        self._layer = [layer]  # in a list, since its parameters are not to be trained
        for name, tensor in (("unit", grid.scale), ("step", grid.step), ("offset", grid.offset)):
            self.register_buffer(name, tensor.detach().clone())
        # In the middle of its level: at the float value, next to the border for most weights that
        # were not rounded to the nearest level, the first steps would undo the reconstruction. Not
        # at the very ends, behind which nothing is learned.
        q = learned.q.clamp(_MARGIN, grid.largest - _MARGIN)
        self.removed = learned.removed
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
        """(out,) what one step of all weights of a channel, with random signs, sums up to."""
        num_inputs = self._layer[0].weight[0].numel()
        return self.unit.flatten() * math.sqrt(num_inputs)

    def _whole_weight(self) -> Tensor:
        """(out, ...) before quantization: what was pruned is zero, and gets no gradient."""
        weight = self.weight * self.unit
        return weight if self.removed is None else weight.masked_fill(self.removed, 0)

    def grid(self) -> WeightGrid:
        """The grid with its scales as they are now."""
        log_scale = scale_gradient(self.log_scale, self._gradient_factor)
        scale = self.unit * log_scale.exp()
        return WeightGrid(self.bits, scale, self.step, self.offset, self.symmetric)

    def forward(self, x: Tensor) -> Tensor:
        weight = quantize_weight(self._whole_weight(), self.grid())
        bias = None if self.bias is None else self.bias * self._bias_unit()
        return apply_layer(self._layer[0], x, weight, bias)

    @torch.no_grad()
    def deployed(self) -> QuantizedLayer:
        """The layer with its integers."""
        grid = self.grid()
        integers = grid.integers(grid.nearest(self._whole_weight()))
        return QuantizedLayer(
            self._layer[0],
            integers,
            grid.scale,
            self.bits,
            zero_point=None if grid.symmetric else grid.zero_point,
            bias=None if self.bias is None else self.bias * self._bias_unit(),
        )


class StepSizeActivation(nn.Module):
    """An activation quantizer whose step size is learned in training.

    Parameter: ``log_scale`` (), how far the step size is from the one that was found. The zero
    point stays.
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
        """() the step size as it is now."""
        return self.unit * self.log_scale.exp()

    def forward(self, x: Tensor) -> Tensor:
        # n of the paper is the number of values of one image.
        factor = (x[0].numel() * (2**self.bits - 1)) ** -0.5
        return fake_quantize(
            x, scale_gradient(self.scale(), factor), self.zero_point, self.bits, quantize_prob=1
        )

    def deployed(self) -> QuantizedActivation:
        """The quantizer with its final step size."""
        return QuantizedActivation(self.scale(), self.zero_point, self.bits)
