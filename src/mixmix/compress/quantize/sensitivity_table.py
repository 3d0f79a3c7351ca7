"""Sensitivity and cost of each layer, which mixed precision is based on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mixmix._display import html_table, summary
from mixmix.compress.quantize.bits import parse_bits
from mixmix.errors import DataError
from mixmix.runtime.storage import read_json, write_record

__all__ = ["LayerSensitivity", "SensitivityTable"]

_FORMAT = "mixmix-sensitivity/1"
_FLOAT_BITS = 32


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer, quantized with its input while the rest of the network stays in float.

    Attributes:
        name: name of the layer.
        num_weights: number of weights, without the bias.
        macs: multiply-accumulate operations for one image.
        input_group: layers with the same number read the same quantized tensor, so that they have
            equal activation bits.
        divergence: by bits such as ``W4A8``: mean over images of the Kullback-Leibler divergence
            ``sum_k p_k log(p_k / q_k)`` in nats, with p from the float and q from the quantized
            network.
    """

    name: str
    num_weights: int
    macs: int
    input_group: int
    divergence: Mapping[str, float]

    def weight_size_bits(self, bits: str) -> int:
        """Size of its packed weights in bits."""
        return self.num_weights * parse_bits(bits)[0]

    def bitops(self, bits: str) -> int:
        """Bit operations for one image: MACs times weight bits times activation bits.

        Yao et al. 2021, HAWQ-V3, section 3.4 (BOPS).
        """
        weight_bits, activation_bits = parse_bits(bits)
        return self.macs * weight_bits * activation_bits


@dataclass(frozen=True, repr=False)
class SensitivityTable:
    """Sensitivities of all quantizable layers of a network, from ``measure_sensitivity``.

    Attributes:
        model: name of the network.
        layers: one for each layer, in execution order.
        num_parameters: parameters of the float network.
        num_floats: values that stay in float32: biases with BatchNorm folded into them, scales of
            weights, and layers that are not quantized.
        num_images: number of images that sensitivity was measured on.
        seed: seed of the choice of images.
    """

    model: str
    layers: tuple[LayerSensitivity, ...]
    num_parameters: int
    num_floats: int
    num_images: int
    seed: int

    def __repr__(self) -> str:
        choices = sorted({bits for layer in self.layers for bits in layer.divergence})
        facts = {
            "model": self.model,
            "layers": len(self.layers),
            "choices": tuple(choices),
            "images": self.num_images,
        }
        return summary("SensitivityTable", facts)

    def _repr_html_(self) -> str:
        rows = [
            {"layer": layer.name, "weights": layer.num_weights, "MACs": layer.macs}
            | {bits: 1e3 * value for bits, value in sorted(layer.divergence.items())}
            for layer in self.layers
        ]
        caption = f"{self.model}: divergence of each layer in thousandths of a nat"
        return html_table(rows, caption=caption)

    @property
    def floats_size_bits(self) -> int:
        """Size in bits of the values that stay in float32."""
        return self.num_floats * _FLOAT_BITS

    @property
    def float_size_bytes(self) -> int:
        """Size of the float network: all parameters at 32 bits."""
        return self.num_parameters * _FLOAT_BITS // 8

    @property
    def float_bitops(self) -> int:
        """Bit operations of the float network: 32 x 32 for each of its MACs."""
        return sum(layer.macs for layer in self.layers) * _FLOAT_BITS**2

    def size_bytes(self, bits: Mapping[str, str]) -> int:
        """Size with these bits by layer name: packed weights, and values that stay in float32.

        Files can be larger: few formats pack 3 bits, and each has a header.
        """
        packed = sum(layer.weight_size_bits(bits[layer.name]) for layer in self.layers)
        return -(-(packed + self.floats_size_bits) // 8)

    def bitops(self, bits: Mapping[str, str]) -> int:
        """Bit operations for one image with these bits by layer name."""
        return sum(layer.bitops(bits[layer.name]) for layer in self.layers)

    def divergence(self, bits: Mapping[str, str]) -> float:
        """Sum of the layers' divergences with these bits by layer name, in nats."""
        return sum(layer.divergence[bits[layer.name]] for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SensitivityTable:
        """Read what ``to_dict`` returned.

        Raises:
            DataError: if keys are missing or unknown.
        """
        try:
            layers = tuple(LayerSensitivity(**layer) for layer in content["layers"])
            return cls(**{**content, "layers": layers})
        except (KeyError, TypeError) as error:
            raise DataError(
                f"not a table of sensitivities ({error}); measure it again with measure_sensitivity"
            ) from error

    def save(self, path: str | Path) -> Path:
        """Write as JSON."""
        write_record(Path(path), {"format": _FORMAT} | self.to_dict())
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> SensitivityTable:
        """Read what ``save`` wrote.

        Raises:
            DataError: if there is no such file, or it has another format.
        """
        content = read_json(Path(path))
        if content.pop("format", None) != _FORMAT:
            raise DataError(f"{path} is not a table of sensitivities in the format {_FORMAT!r}")
        return cls.from_dict(content)
