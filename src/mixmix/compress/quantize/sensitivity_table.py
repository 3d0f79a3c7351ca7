"""What each layer's bits cost and harm: the numbers that mixed precision is decided by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mixmix._display import html_table, summary
from mixmix.compress.quantize.bits import parse_bits
from mixmix.errors import DataError
from mixmix.runtime.storage import read_json, write_json

__all__ = ["LayerSensitivity", "SensitivityTable"]

_FORMAT = "mixmix-sensitivity/1"
_FLOAT_BITS = 32


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer, quantized alone, with its input, while the rest of the network is in floats.

    Attributes:
        name: of the layer.
        num_weights: values of its weight, without the bias.
        macs: multiply-accumulate operations for one image.
        input_group: layers of one number read the same quantized tensor, so that they have one
            number of activation bits.
        divergence: by bits such as ``W4A8``: the mean over images of the Kullback-Leibler
            divergence in nats, ``sum_k p_k log(p_k / q_k)``, of the float network's probabilities
            p from the quantized one's q.
        logit_error: by bits: length of the difference of the logits over that of the logits.
    """

    name: str
    num_weights: int
    macs: int
    input_group: int
    divergence: Mapping[str, float]
    logit_error: Mapping[str, float]

    def weight_size_bits(self, bits: str) -> int:
        """Memory of its weights, packed without gaps."""
        return self.num_weights * parse_bits(bits)[0]

    def bitops(self, bits: str) -> int:
        """Bit operations for one image: MACs times weight bits times activation bits.

        Yao et al. 2021, HAWQ-V3, section 3.4 (BOPS).
        """
        weight_bits, activation_bits = parse_bits(bits)
        return self.macs * weight_bits * activation_bits


@dataclass(frozen=True, repr=False)
class SensitivityTable:
    """Sensitivities of all quantizable layers of a network.

    Attributes:
        model: its name.
        layers: in order of execution, each with the bits that it may have.
        num_parameters: of the network in floats.
        num_floats: values that stay in float32 beside the quantized weights: biases with
            BatchNorm folded into them, scales of weights, and layers that are not quantized.
        num_images: synthetic images that it was measured on.
        seed: that they were chosen by.
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
        caption = f"{self.model}: divergence that each layer causes alone, in thousandths of a nat"
        return html_table(rows, caption=caption)

    @property
    def floats_size_bits(self) -> int:
        """Memory of what stays in float32."""
        return self.num_floats * _FLOAT_BITS

    @property
    def float_size_bytes(self) -> int:
        """Size of the network in floats: all parameters at 32 bits."""
        return self.num_parameters * _FLOAT_BITS // 8

    @property
    def float_bitops(self) -> int:
        """Bit operations of the network in floats: 32 x 32 for each of its MACs."""
        return sum(layer.macs for layer in self.layers) * _FLOAT_BITS**2

    def size_bytes(self, bits: Mapping[str, str]) -> int:
        """Size with these bits for each layer: weights packed without gaps, and the floats.

        Files can be larger: few formats pack 3 bits, and each has a header.
        """
        packed = sum(layer.weight_size_bits(bits[layer.name]) for layer in self.layers)
        return -(-(packed + self.floats_size_bits) // 8)

    def bitops(self, bits: Mapping[str, str]) -> int:
        """Bit operations for one image with these bits for each layer."""
        return sum(layer.bitops(bits[layer.name]) for layer in self.layers)

    def divergence(self, bits: Mapping[str, str]) -> float:
        """Sum over layers of the divergence that each alone causes with its bits, in nats."""
        return sum(layer.divergence[bits[layer.name]] for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SensitivityTable:
        """From what ``to_dict`` gives.

        Raises:
            DataError: if keys are missing or not known.
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
        write_json(Path(path), {"format": _FORMAT} | self.to_dict())
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> SensitivityTable:
        """Read what ``save`` wrote.

        Raises:
            DataError: if the file is absent, or something else.
        """
        content = read_json(Path(path))
        if content.pop("format", None) != _FORMAT:
            raise DataError(f"{path} is not a table of sensitivities in the format {_FORMAT!r}")
        return cls.from_dict(content)
