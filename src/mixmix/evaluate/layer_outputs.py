"""The interface of models that return the outputs of their layers.

The output of a layer includes the BatchNorm, the bias, the ReLU or clamp and the quantizer behind
it, if nothing else reads its values before. So layers are comparable before and after folding,
fusion and quantization.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from mixmix.models.spec import ModelSpec

__all__ = ["Grid", "Layer", "LayerOutputs", "plain_name"]

_NOTE = re.compile(
    r"(?i)(_?(quantized|quant|dequantizelinear|quantizelinear|dequantized|output|input|cast|packed)"
    r"(_\d+)?)+$"
)
_OPERATOR = re.compile(r"/(Conv|Gemm|MatMul|ConvTranspose)(_\d+)?$")


class Grid(NamedTuple):
    """Quantization of a tensor to integers from ``low`` to ``high``, and back."""

    scale: float
    zero_point: int
    low: int
    high: int

    def __call__(self, x: Tensor) -> Tensor:
        steps = (x / self.scale).round() + self.zero_point
        return (steps.clamp(self.low, self.high) - self.zero_point) * self.scale

    @property
    def bits(self) -> int:
        return (self.high - self.low).bit_length()


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer of a model.

    Attributes:
        name: as the model calls it.
        aliases: further names to match layers of other models by, the most reliable first.
        weight: float values of the weights, or None if they are computed.
        weight_bits: bits of the weights, or None for float.
        grid: quantization of the input, or None for float.
    """

    name: str
    aliases: tuple[str, ...]
    weight: Tensor | None
    weight_bits: int | None = None
    grid: Grid | None = None


class LayerOutputs(ABC):
    """A model that returns the outputs of its layers.

    Attributes:
        spec: of the model.
        layers: in order of execution.
    """

    spec: ModelSpec
    layers: list[Layer]

    @abstractmethod
    def run(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The outputs of ``layers``, (N, ...) each, and of the model, of images in [0, 1]."""


def plain_name(name: str) -> str:
    """A name without what exporters and quantizers add to it."""
    name = _OPERATOR.sub("", _NOTE.sub("", name).removeprefix("/"))
    name = _NOTE.sub("", name).replace("/", ".")
    return name.removesuffix(".weight").removesuffix("._packed_params")
