"""Mixed precision: choose the bits of each layer under a budget."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from mixmix.compress.method import Compressed, Method, Progress
from mixmix.compress.quantize.bit_allocation import Budget, allocate_bits
from mixmix.compress.quantize.bits import parse_bits
from mixmix.compress.quantize.quantize import Quantize
from mixmix.compress.quantize.sensitivity import measure_sensitivity
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError

__all__ = ["MixedPrecision"]


@dataclass(frozen=True)
class MixedPrecision(Method):
    """Measure the sensitivity of each layer, choose bits under a budget, and quantize.

    Give exactly one budget. ``Compressed.applied`` gets two entries: this method, with the table of
    sensitivities (``sensitivity``) and the chosen bits (``layer_bits``) as its results, and the
    quantization.

    Attributes:
        max_size_ratio: size relative to all parameters in float32, in (0, 1]: 3/32 is about 3 bits.
        max_size_bytes: size in bytes of packed weights, and of biases, scales and layers that stay
            in float32.
        max_bitops_ratio: bit operations relative to 32 x 32 bits for each MAC, in (0, 1]: W8A8
            everywhere is 1/16, W4A4 1/64.
        choices: bits that a layer may have.
        num_images: number of images that sensitivities are measured on.
        quantize: how to quantize; its ``bits`` are ignored. Layers in its ``layer_bits``, and the
            first and last layer by its ``first_last_bits``, have fixed bits, which count toward
            the budget.

    Raises:
        InputError: unless exactly one budget is given, and every value is in its range.

    Examples:
        >>> mixmix.MixedPrecision(max_size_ratio=3 / 32).choices
        ('W2A8', 'W3A8', 'W4A8', 'W8A8')
    """

    kind: ClassVar[str] = "mixed-precision"

    max_size_ratio: float | None = None
    max_size_bytes: int | None = None
    max_bitops_ratio: float | None = None
    choices: tuple[str, ...] = ("W2A8", "W3A8", "W4A8", "W8A8")
    num_images: int = 128
    quantize: Quantize = field(default_factory=Quantize)

    def __post_init__(self) -> None:
        assert self.budget is not None  # raises unless exactly one is given
        object.__setattr__(self, "choices", tuple(bits.upper() for bits in self.choices))
        if not self.choices:
            raise InputError("choices is empty; list the bits that a layer may have, such as W4A8")
        for bits in self.choices:
            parse_bits(bits)
        self._require_int("num_images", least=2)

    @property
    def budget(self) -> Budget:
        """The budget that is given."""
        return Budget(self.max_size_ratio, self.max_size_bytes, self.max_bitops_ratio)

    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Quantize a copy of the model.

        Raises:
            CaptureError: if the model cannot be captured as a graph.
            InputError: if it has no layer to quantize, or no choice of bits fits the budget.
        """
        table = measure_sensitivity(
            model,
            data,
            choices=self.choices,
            quantize=self.quantize,
            num_images=self.num_images,
            seed=seed,
            on_progress=on_progress,
        )
        layer_bits = allocate_bits(table, self.budget)
        # The bits of all layers only decide whether additions are quantized.
        activation_bits = max(parse_bits(bits)[1] for bits in self.choices)
        quantize = replace(
            self.quantize,
            bits=f"W8A{activation_bits}",
            layer_bits=layer_bits | self.quantize.float_layers,
        )
        results = {"sensitivity": table.to_dict(), "layer_bits": layer_bits}
        model = model.with_method(self, results)
        return quantize.apply(model, data, seed=seed, on_progress=on_progress)
