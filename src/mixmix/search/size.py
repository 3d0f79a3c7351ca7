"""Bits of the layers for a file of a given size, which is found by writing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mixmix.compress.method import Compressed, Progress
from mixmix.compress.quantize.bit_allocation import Budget, allocate_bits
from mixmix.compress.quantize.bits import parse_bits
from mixmix.compress.quantize.quantize import Quantize
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.compress.quantize.sensitivity import measure_sensitivity
from mixmix.compress.quantize.sensitivity_table import SensitivityTable
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.export.verify import probe_images

__all__ = ["STORED_BITS", "SizeFitting"]

# Bits of weights that ONNX stores without gaps; others take the space of the next of these.
STORED_BITS = (2, 4, 8)
_NUM_TRIALS = 6
_TRIAL_IMAGES = 32


class SizeFitting:
    """Chooses the bits of a network's weights so that its ONNX file has at most a given size.

    What a file needs beside its weights is measured on files that are written without
    reconstruction: their size depends on the bits, not on how weights were rounded.

    Args:
        model: the network, not quantized.
        data: images that sensitivities are measured on.
        base: how to quantize; the bits of activations, and all but the bits of weights, are kept.
        seed: of the choice of images.
        on_progress: called with (a description, fraction done).
    """

    def __init__(
        self,
        model: Compressed,
        data: ImageSet,
        base: Quantize,
        *,
        seed: int = 0,
        on_progress: Progress = lambda what, fraction: None,
    ) -> None:
        self._model, self._data, self._seed = model, data, seed
        self._activation_bits = parse_bits(base.bits)[1]
        self._base = replace(base, bits=f"W8A{self._activation_bits}")
        self.table: SensitivityTable = measure_sensitivity(
            model,
            data.images,
            choices=[f"W{bits}A{self._activation_bits}" for bits in STORED_BITS],
            quantize=self._base,
            seed=seed,
            on_progress=on_progress,
        )
        self._beside: int | None = None

    def method(self, max_bytes: int) -> Quantize:
        """The quantization whose file has at most this size, with the least divergence.

        Raises:
            InputError: if even the fewest bits need more.
        """
        if self._beside is None:
            least = self._fewest_bits()
            self._beside = self._written(least) - self.table.size_bytes(least)
        allowed = max_bytes - self._beside
        for _ in range(_NUM_TRIALS):
            layer_bits = self._allocated(allowed, max_bytes)
            excess = self._written(layer_bits) - max_bytes
            if excess <= 0:
                break
            allowed -= excess
        return replace(self._base, layer_bits=self._with_kept(layer_bits))

    def _with_kept(self, layer_bits: Mapping[str, str]) -> dict[str, str]:
        """Bits by layer with those of the layers that are not in the table: they stay in float."""
        return {**self._base.float_layers, **layer_bits}

    def _fewest_bits(self) -> dict[str, str]:
        return {
            layer.name: min(layer.divergence, key=layer.weight_size_bits)
            for layer in self.table.layers
        }

    def _allocated(self, allowed: int, max_bytes: int) -> dict[str, str]:
        least = self.table.size_bytes(self._fewest_bits())
        if allowed < least:
            raise InputError(
                f"{self.table.model} does not fit into {max_bytes:,} bytes: with two bits where "
                f"bits may be chosen its file has {max_bytes + least - allowed:,}; allow more, "
                "treat all layers alike (first_last_bits=None, --all-layers), or prune channels "
                "first"
            )
        return allocate_bits(self.table, Budget(max_size_bytes=allowed))

    def _written(self, layer_bits: Mapping[str, str]) -> int:
        """Size of the file of a trial in bytes."""
        from mixmix.export.onnx.write import onnx_bytes  # slow to import

        plain = ReconstructionSettings(iterations=0)
        layer_bits = self._with_kept(layer_bits)
        trial = replace(self._base, layer_bits=layer_bits, views=0, reconstruction=plain)
        data = self._data
        some = data.split(_TRIAL_IMAGES)[0] if len(data) > _TRIAL_IMAGES else data
        compressed = trial.apply(
            self._model, some, seed=self._seed, on_progress=lambda what, fraction: None
        )
        final = replace(self._base, layer_bits=layer_bits)
        noted = self._model.with_method(final, module=compressed.module)
        return len(onnx_bytes(noted, probe_images(noted.spec)[:_TRIAL_IMAGES]))
