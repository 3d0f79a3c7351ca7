"""Post-training quantization on synthetic images."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from mixmix import seeding
from mixmix.capture import capture, fold_batch_norms, relative_error
from mixmix.compression.insertion import insert_quantizers
from mixmix.compression.learnable import LearnableActivation, LearnableLayer, Phase, set_phase
from mixmix.compression.method import Compressed, LayerRecord, Progress
from mixmix.compression.reconstruction import (
    ReconstructionSettings,
    reconstruct_unit,
    run_in_batches,
)
from mixmix.compression.units import Unit, split_into_units
from mixmix.errors import InputError
from mixmix.synthesis.dataset import SyntheticDataset
from mixmix.zoo.teacher import normalise

__all__ = ["Calibrated", "Quantize"]

_INFERENCE_BATCH = 128


@dataclass(frozen=True)
class Calibrated:
    """A network whose learnable quantizers are set (phase ``QUANTIZED``), and its records."""

    graph_module: fx.GraphModule
    records: tuple[LayerRecord, ...]


@dataclass(frozen=True)
class Quantize:
    """Quantize weights per output channel and activations per tensor, BatchNorm folded.

    Scales minimise the squared error; below 8 bits every unit of the network is then reconstructed
    on the images (AdaRound, BRECQ, QDrop: see ``reconstruction``). What enters and leaves a unit,
    in floats and quantized, is in memory for all images together: at most 16 bytes for each image
    and each value of the network's largest activation between two units.

    Attributes:
        bits: ``W<weight bits>A<activation bits>``, such as ``W8A8``, ``W4A8``, ``W4A4``, ``W2A4``;
            2 to 8 each.
        first_last_bits: bits of the first and the last layer and of their inputs; None treats
            them like the others.
        input_bits: bits of the images. They come with 8 bits, so that 8 lose nothing to speak of,
            and what the literature calls all layers quantized (``first_last_bits=None``) leaves
            them alone: GDFQ and its successors, like ZeroQ before them, quantize behind each
            activation function. None treats images like what enters any other layer.
        per_channel: weight scales per output channel, else per layer.
        reconstruction: settings of the reconstruction.
    """

    bits: str = "W8A8"
    first_last_bits: int | None = 8
    input_bits: int | None = 8
    per_channel: bool = True
    reconstruction: ReconstructionSettings = field(default_factory=ReconstructionSettings)

    def __post_init__(self) -> None:
        match = re.fullmatch(r"[Ww]([2-8])[Aa]([2-8])", self.bits)
        if match is None:
            raise InputError(
                f"bits must look like W4A8 with 2 to 8 bits each, got {self.bits!r}; 32-bit floats "
                "are what the model has already"
            )
        object.__setattr__(self, "bits", self.bits.upper())
        for name in ("first_last_bits", "input_bits"):
            value = getattr(self, name)
            if value is not None and not 2 <= value <= 8:
                raise InputError(f"{name} must be 2 to 8 or None, got {value}")

    @property
    def weight_bits(self) -> int:
        return int(self.bits[1])

    @property
    def activation_bits(self) -> int:
        return int(self.bits[3])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"method": "quantize"} | asdict(self)

    def apply(
        self, model: Compressed, data: SyntheticDataset, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Quantize a copy of the model.

        Raises:
            CaptureError: if the model cannot be captured as a graph.
            InputError: if it has no layer to quantize.
        """
        calibrated = self.calibrate(model, data, seed=seed, on_progress=on_progress)
        _deploy(calibrated.graph_module)
        return replace(
            model,
            model=calibrated.graph_module.eval(),
            records=calibrated.records,
            settings=(*model.settings, self.to_dict()),
        )

    def calibrate(
        self, model: Compressed, data: SyntheticDataset, *, seed: int, on_progress: Progress
    ) -> Calibrated:
        """What ``apply`` does before it leaves nothing but integers: a copy with its quantizers."""
        device = next(model.model.parameters()).device
        images = normalise(data.images, model.spec).to(device)
        if images.shape[1] > 1:  # the order of memory of a teacher's weights
            images = images.contiguous(memory_format=torch.channels_last)
        graph_module = capture(model.model, images[:4])
        folded = fold_batch_norms(graph_module, images[:4])
        input_bits = insert_quantizers(
            graph_module,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            first_last_bits=self.first_last_bits,
            input_bits=self.input_bits,
            per_channel=self.per_channel,
            keep_probability=self.reconstruction.keep_probability,
        )
        if not input_bits:
            raise InputError(f"{model.spec.name} has no convolution or linear layer to quantize")
        units = _units(graph_module)
        errors = _calibrate_units(units, images, self.reconstruction, seed, on_progress)
        records = _records(model.model, graph_module, folded, input_bits, errors)
        return Calibrated(graph_module, records)


def _units(graph_module: fx.GraphModule) -> list[Unit]:
    def calls(node: fx.Node, kind: type[nn.Module]) -> bool:
        return node.op == "call_module" and isinstance(
            graph_module.get_submodule(str(node.target)), kind
        )

    return split_into_units(
        graph_module,
        is_layer=lambda node: calls(node, LearnableLayer),
        is_quantizer=lambda node: calls(node, LearnableActivation),
    )


def _calibrate_units(
    units: list[Unit],
    images: Tensor,
    settings: ReconstructionSettings,
    seed: int,
    on_progress: Progress,
) -> dict[str, float]:
    """Set every quantizer, unit by unit; returns each layer's unit's relative squared error."""
    errors: dict[str, float] = {}
    low_bit = [unit for unit in units if _is_low_bit(unit)] if settings.iterations else []
    total_steps = max(1, len(low_bit) * settings.iterations)
    steps_done = 0

    def advance() -> None:
        nonlocal steps_done
        steps_done += 1
        on_progress(f"reconstructing {unit.name}", steps_done / total_steps)

    float_inputs = quantized_inputs = images
    for index, unit in enumerate(units):
        set_phase(unit.module, Phase.FLOAT)
        targets = run_in_batches(unit.module, float_inputs, _INFERENCE_BATCH)
        set_phase(unit.module, Phase.QUANTIZED)
        with torch.no_grad():  # the first pass sets the ranges of activations
            unit.module(quantized_inputs[: 2 * _INFERENCE_BATCH])
        if unit in low_bit:
            with torch.random.fork_rng():
                torch.manual_seed(seeding.child_seed(seed, "drop", index))
                reconstruct_unit(
                    unit,
                    float_inputs,
                    quantized_inputs,
                    targets,
                    settings,
                    generator=seeding.generator(seed, "reconstruction", index),
                    on_step=advance,
                )
        quantized_inputs = run_in_batches(unit.module, quantized_inputs, _INFERENCE_BATCH)
        float_inputs = targets
        error = relative_error(quantized_inputs, targets) ** 2
        errors |= dict.fromkeys(unit.layers, error)
    return errors


def _is_low_bit(unit: Unit) -> bool:
    bits = [
        module.bits
        for module in unit.module.modules()
        if isinstance(module, (LearnableLayer, LearnableActivation))
    ]
    return bool(bits) and min(bits) < 8


def _records(
    original: nn.Module,
    graph_module: fx.GraphModule,
    folded: dict[str, str],
    input_bits: dict[str, int],
    errors: dict[str, float],
) -> tuple[LayerRecord, ...]:
    """One record for every layer of the original that has parameters of its own."""
    records = []
    kept = dict(graph_module.named_modules())
    for name, module in original.named_modules():
        num_parameters = sum(p.numel() for p in module.parameters(recurse=False))
        if not num_parameters:
            continue
        quantized = kept.get(name)
        record = LayerRecord(name, type(module).__name__, "skipped", num_parameters=num_parameters)
        if isinstance(quantized, LearnableLayer):
            record = replace(
                record,
                action="quantized",
                weight_bits=quantized.bits,
                activation_bits=input_bits.get(name),
                error=errors.get(name),
            )
        elif name in folded:
            record = replace(record, action="folded", reason=f"into {folded[name]}")
        elif quantized is None:
            record = replace(record, reason="not called in the forward pass")
        else:
            record = replace(
                record,
                reason=f"{type(module).__name__} stays in floats: only Conv2d and Linear "
                "layers are quantized",
            )
        records.append(record)
    return tuple(records)


def _deploy(graph_module: fx.GraphModule) -> None:
    """Replace every learnable quantizer by its final form."""
    for name, module in list(graph_module.named_modules()):
        if isinstance(module, (LearnableLayer, LearnableActivation)):
            graph_module.set_submodule(name, module.deployed())
    graph_module.recompile()
