"""Set the quantizers of a network unit by unit, each behind those that are quantized already."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from mixmix import seeding
from mixmix.capture import relative_error
from mixmix.compression.bias_correction import correct_biases
from mixmix.compression.importance import measure_importance
from mixmix.compression.learnable import LearnableActivation, LearnableLayer, Phase, set_phase
from mixmix.compression.method import Progress
from mixmix.compression.reconstruction import (
    ReconstructionSettings,
    reconstruct_unit,
    run_in_batches,
)
from mixmix.compression.units import Unit, split_into_units

__all__ = ["calibrate_units", "learnable_units"]

_INFERENCE_BATCH = 128


def learnable_units(graph_module: fx.GraphModule) -> list[Unit]:
    """The units of a graph with learnable quantizers; they share its modules."""

    def calls(node: fx.Node, kind: type[nn.Module]) -> bool:
        return node.op == "call_module" and isinstance(
            graph_module.get_submodule(str(node.target)), kind
        )

    return split_into_units(
        graph_module,
        is_layer=lambda node: calls(node, LearnableLayer),
        is_quantizer=lambda node: calls(node, LearnableActivation),
    )


def calibrate_units(
    units: list[Unit],
    images: Tensor,
    settings: ReconstructionSettings,
    *,
    correct_bias: bool | None,
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
            rest = [later.module for later in units[index + 1 :]]
            importance = measure_importance(
                rest,
                targets,
                settings.loss,
                batch_size=_INFERENCE_BATCH,
                generator=seeding.generator(seed, "importance", index),
            )
            with torch.random.fork_rng():
                torch.manual_seed(seeding.child_seed(seed, "drop", index))
                reconstruct_unit(
                    unit,
                    float_inputs,
                    quantized_inputs,
                    targets,
                    settings,
                    importance=importance,
                    generator=seeding.generator(seed, "reconstruction", index),
                    on_step=advance,
                )
        layers = _layers(unit)
        if correct_bias or (correct_bias is None and any(map(_is_depthwise, layers))):
            correct_biases(
                unit, float_inputs, quantized_inputs, layers, batch_size=_INFERENCE_BATCH
            )
        quantized_inputs = run_in_batches(unit.module, quantized_inputs, _INFERENCE_BATCH)
        float_inputs = targets
        error = relative_error(quantized_inputs, targets) ** 2
        errors |= dict.fromkeys(unit.layers, error)
    return errors


def _layers(unit: Unit) -> list[LearnableLayer]:
    """The layers of a unit in the order of execution."""
    layers = [unit.module.get_submodule(name) for name in unit.layers]
    return [layer for layer in layers if isinstance(layer, LearnableLayer)]


def _is_depthwise(layer: LearnableLayer) -> bool:
    convolution = layer.layer
    return isinstance(convolution, nn.Conv2d) and convolution.groups == convolution.in_channels > 1


def _is_low_bit(unit: Unit) -> bool:
    bits = [
        module.bits
        for module in unit.module.modules()
        if isinstance(module, (LearnableLayer, LearnableActivation))
    ]
    return bool(bits) and min(bits) < 8
