"""Quantizers with learnable parameters: rounding of weights, step sizes of activations."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, nn

from mixmix.compress.quantize.dropping import fake_quantize
from mixmix.compress.quantize.quantizers import (
    WeightGrid,
    search_activation_range,
    search_weight_grid,
)
from mixmix.compress.quantize.rounding import SoftRounding
from mixmix.errors import InputError
from mixmix.graph.pointwise import apply_layer
from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer

__all__ = ["LearnableActivation", "LearnableLayer", "Phase", "set_phase"]


class Phase(Enum):
    """What learnable quantizers do in a forward pass."""

    FLOAT = "float"
    LEARN = "learn"
    QUANTIZED = "quantized"


class LearnableLayer(nn.Module):
    """A layer with learnable rounding of its weights (AdaRound).

    Args:
        layer: a layer with BatchNorm folded; its float weights are not changed.
        bits: bit width of the weights.
        per_channel: one scale for each output channel, else one for the layer.
        symmetric: use no zero points.
        mask: bool tensor of the weight's shape, True where a weight is kept; pruned weights stay
            zero. None without pruning.

    Attributes:
        bias_correction: (out,) added to the bias in the ``QUANTIZED`` phase, or None.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        bits: int,
        *,
        per_channel: bool,
        symmetric: bool = True,
        mask: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.bits = bits
        self.per_channel = per_channel
        self.mask = None if mask is None else mask.to(layer.weight.device)
        self.phase = Phase.FLOAT
        self.grid: WeightGrid = search_weight_grid(
            layer.weight,
            bits,
            per_channel=per_channel,
            symmetric=symmetric,
            with_zero=mask is not None,
        )
        self.q = self.grid.nearest(layer.weight)
        self.rounding: SoftRounding | None = None
        self.bias_correction: Tensor | None = None

    def start_learning(self) -> SoftRounding:
        """Make rounding and scales learnable, starting at the float weights."""
        self.rounding = SoftRounding(
            self.layer.weight, self.grid, learn_scale=self.per_channel, mask=self.mask
        )
        return self.rounding

    def finish_learning(self) -> None:
        """Round each weight to the learned level."""
        assert self.rounding is not None
        self.grid, self.q = self.rounding.rounded()
        self.rounding = None

    def weight(self) -> Tensor:
        if self.phase is Phase.FLOAT:
            return self.layer.weight
        if self.phase is Phase.LEARN and self.rounding is not None:
            return self.rounding.weight
        return self.grid.value(self.q)

    def bias(self) -> Tensor | None:
        """The float bias; in the ``QUANTIZED`` phase with ``bias_correction`` added."""
        bias, correction = self.layer.bias, self.bias_correction
        if self.phase is not Phase.QUANTIZED or correction is None:
            return bias
        return correction if bias is None else bias + correction

    def forward(self, x: Tensor) -> Tensor:
        return apply_layer(self.layer, x, self.weight(), self.bias())

    def deployed(self) -> QuantizedLayer:
        """The final layer with integer weights."""
        self.phase = Phase.QUANTIZED
        return QuantizedLayer(
            self.layer,
            self.grid.integers(self.q),
            self.grid.scale,
            self.bits,
            zero_point=None if self.grid.symmetric else self.grid.zero_point,
            bias=self.bias(),
        )


class LearnableActivation(nn.Module):
    """An activation quantizer whose step size is learned (LSQ), with random dropping (QDrop).

    Args:
        bits: bit width.
        quantize_prob: probability that a value is quantized in the ``LEARN`` phase; the others
            stay in float (QDrop, Wei et al. 2022).
        symmetric: zero is the middle level, or the lowest if no value is negative.
        place: where its tensor is, for error messages.
    """

    def __init__(
        self,
        bits: int,
        *,
        quantize_prob: float,
        symmetric: bool = False,
        place: str = "an activation",
    ) -> None:
        super().__init__()
        self.place = place
        self.bits = bits
        self.symmetric = symmetric
        self.quantize_prob = quantize_prob
        self.phase = Phase.FLOAT
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.zero_point = torch.zeros(())
        self.is_set = False

    def set_range(self, sample: Tensor) -> None:
        """Search scale and zero point on a sample of the inputs.

        Raises:
            InputError: if the sample contains NaN or infinite values.
        """
        scale, zero_point = search_activation_range(sample, self.bits, symmetric=self.symmetric)
        if not bool(torch.isfinite(scale) & torch.isfinite(zero_point)):
            raise InputError(
                f"{self.place} contains NaN or infinite values, from {float(sample.amin()):g} to "
                f"{float(sample.amax()):g}, and has no range to quantize; expected finite values. "
                "Clamp it in the network's code, or check its weights"
            )
        self.scale.data, self.zero_point = scale, zero_point
        self.is_set = True

    def forward(self, x: Tensor) -> Tensor:
        if self.phase is Phase.FLOAT:
            return x
        if not self.is_set:
            self.set_range(x)
        if self.phase is Phase.QUANTIZED:
            largest = 2**self.bits - 1
            q = (torch.round(x / self.scale) + self.zero_point).clamp(0, largest)
            return (q - self.zero_point) * self.scale
        return fake_quantize(
            x, self.scale, self.zero_point, self.bits, quantize_prob=self.quantize_prob
        )

    def deployed(self) -> QuantizedActivation:
        """The final quantizer."""
        return QuantizedActivation(self.scale, self.zero_point, self.bits)


def set_phase(module: nn.Module, phase: Phase) -> None:
    """Set the phase of every learnable quantizer inside ``module``."""
    for child in module.modules():
        if isinstance(child, (LearnableLayer, LearnableActivation)):
            child.phase = phase
