"""Quantizers while they are being learned: rounding of weights, step sizes of activations."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.compression.quantized import QuantizedActivation, QuantizedLayer
from mixmix.compression.quantizers import (
    ActivationRange,
    WeightGrid,
    search_activation_range,
    search_weight_grid,
)

__all__ = ["LearnableActivation", "LearnableLayer", "Phase", "random_mask", "set_phase"]

# Stretched sigmoid of AdaRound (Nagel et al. 2020, eq. 23).
_ZETA, _GAMMA = 1.1, -0.1


class Phase(Enum):
    """What learnable quantizers do in a forward pass."""

    FLOAT = "float"
    LEARN = "learn"
    QUANTIZED = "quantized"


class LearnableLayer(nn.Module):
    """A layer whose weights are rounded up or down by what is learned (AdaRound).

    Args:
        layer: with BatchNorm folded; its float weights stay as they are.
        bits: of its weights.
        per_channel: a scale for each output channel, else one for the layer.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, bits: int, *, per_channel: bool) -> None:
        super().__init__()
        self.layer = layer
        self.bits = bits
        self.phase = Phase.FLOAT
        self.grid: WeightGrid = search_weight_grid(layer.weight, bits, per_channel=per_channel)
        self.q = self.grid.nearest(layer.weight)
        self.floor = self.q
        self.rounding: nn.Parameter | None = None

    def start_learning(self) -> nn.Parameter:
        """Make the rounding learnable, starting at the float weights."""
        position = self.grid.position(self.layer.weight).clamp(0, self.grid.largest)
        self.floor = position.floor()
        share = ((position - self.floor) - _GAMMA) / (_ZETA - _GAMMA)
        self.rounding = nn.Parameter(torch.logit(share))
        return self.rounding

    def roundness_loss(self, beta: float) -> Tensor:
        """``sum(1 - |2 h - 1|**beta)``, zero where all are rounded (AdaRound, eq. 24)."""
        return (1 - (2 * self._soft_share() - 1).abs().pow(beta)).sum()

    def finish_learning(self) -> None:
        """Round hard to what was learned."""
        assert self.rounding is not None
        up = (self.rounding.detach() >= 0).float()
        self.q = (self.floor + up).clamp(0, self.grid.largest)
        self.rounding = None

    def _soft_share(self) -> Tensor:
        assert self.rounding is not None
        return (torch.sigmoid(self.rounding) * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)

    def weight(self) -> Tensor:
        if self.phase is Phase.FLOAT:
            return self.layer.weight
        if self.phase is Phase.LEARN and self.rounding is not None:
            return self.grid.value((self.floor + self._soft_share()).clamp(0, self.grid.largest))
        return self.grid.value(self.q)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return F.linear(x, self.weight(), layer.bias)
        return F.conv2d(
            x,
            self.weight(),
            layer.bias,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )

    def deployed(self) -> QuantizedLayer:
        """The layer with its integers."""
        return QuantizedLayer(self.layer, self.grid.integers(self.q), self.grid.scale, self.bits)


class LearnableActivation(nn.Module):
    """An activation quantizer whose step size is learned (LSQ), with random dropping (QDrop).

    Args:
        bits: of the activations.
        keep_probability: share of values that are quantized in the ``LEARN`` phase; the others
            pass as floats (QDrop, Wei et al. 2022).
    """

    def __init__(self, bits: int, *, keep_probability: float) -> None:
        super().__init__()
        self.bits = bits
        self.keep_probability = keep_probability
        self.phase = Phase.FLOAT
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.zero_point = torch.zeros(())
        self.is_set = False

    def set_range(self, sample: Tensor) -> None:
        """Search scale and zero point on a sample of what comes in."""
        found: ActivationRange = search_activation_range(sample, self.bits)
        self.scale.data = found.scale
        self.zero_point = found.zero_point
        self.is_set = True

    def forward(self, x: Tensor) -> Tensor:
        if self.phase is Phase.FLOAT:
            return x
        if not self.is_set:
            self.set_range(x)
        largest = 2**self.bits - 1
        if self.phase is Phase.QUANTIZED:
            q = (torch.round(x / self.scale) + self.zero_point).clamp(0, largest)
            return (q - self.zero_point) * self.scale
        quantized: Tensor = torch._fake_quantize_learnable_per_tensor_affine(
            x, self.scale.view(1), self.zero_point.view(1), 0, largest, 1.0
        )
        if self.keep_probability < 1:
            quantized = torch.lerp(x, quantized, random_mask(x, self.keep_probability))
        return quantized

    def deployed(self) -> QuantizedActivation:
        """The quantizer with its final step size."""
        return QuantizedActivation(self.scale, self.zero_point, self.bits)


def random_mask(
    like: Tensor, probability: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Ones with a probability, in steps of 1/256, and zeros: shape, layout and device of ``like``.

    Eight values come from each random number, since the draws would else take as long as a
    convolution.
    """
    words = torch.empty((like.numel() + 7) // 8, dtype=torch.int64, device=like.device)
    words.random_(-(2**63), None, generator=generator)
    ones = words.view(torch.uint8)[: like.numel()] < min(round(probability * 256), 255)
    mask = torch.empty_like(like)
    mask.as_strided((like.numel(),), (1,)).copy_(ones)
    return mask


def set_phase(module: nn.Module, phase: Phase) -> None:
    """Set the phase of every learnable quantizer inside ``module``."""
    for child in module.modules():
        if isinstance(child, (LearnableLayer, LearnableActivation)):
            child.phase = phase
