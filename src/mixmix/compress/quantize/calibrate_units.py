"""Calibrate the quantizers of a network unit by unit, each on the outputs of quantized ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from mixmix.compress.activation_store import ActivationStore
from mixmix.compress.method import Progress
from mixmix.compress.quantize.bias_correction import correct_biases
from mixmix.compress.quantize.learnable import (
    LearnableActivation,
    LearnableLayer,
    Phase,
    set_phase,
)
from mixmix.compress.quantize.reconstruction import ReconstructionSettings, reconstruct_unit
from mixmix.data.views import with_mixtures
from mixmix.graph.layers import is_depthwise
from mixmix.graph.placement import Operands
from mixmix.graph.units import Unit, split_into_units
from mixmix.runtime import seeding

__all__ = ["calibrate_units", "learnable_units"]


def learnable_units(
    graph_module: fx.GraphModule,
    *,
    layer: type[nn.Module] = LearnableLayer,
    quantizer: type[nn.Module] = LearnableActivation,
) -> list[Unit]:
    """Split a graph with quantizers into units, which share its modules.

    Args:
        graph_module: a graph with quantizers inserted.
        layer: class of the quantized layers.
        quantizer: class of the activation quantizers.
    """
    operands = Operands(graph_module, is_layer=lambda module: isinstance(module, layer))
    layers, entering = set(operands.layers()), operands.sources_of_layers()

    def is_quantizer(node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(
            graph_module.get_submodule(str(node.target)), quantizer
        )

    return split_into_units(
        graph_module,
        is_layer=layers.__contains__,
        is_entrance=lambda node: node in entering and is_quantizer(node),
    )


def calibrate_units(
    units: list[Unit],
    images: Tensor,
    settings: ReconstructionSettings,
    *,
    views: int,
    flip: bool,
    prepare: Callable[[Tensor], Tensor],
    store: ActivationStore,
    correct_bias: bool | None,
    seed: int,
    on_progress: Progress,
) -> dict[str, float]:
    """Calibrate every quantizer, unit by unit, in place.

    Args:
        units: all units of the network, in order.
        images: (N, C, H, W) in [0, 1].
        settings: how units with fewer than 8 bits are reconstructed.
        views: if there is such a unit, add mixtures until there are this many images.
        flip: whether mixtures may have mirrored images.
        prepare: maps images to the input of the first unit.
        store: holds the activations between units.
        correct_bias: correct biases in all units, in none, or (None) in units with a depthwise
            convolution.
        seed: seed of every random draw.
        on_progress: called after every step.

    Returns:
        The relative squared error of each layer's unit, by layer name.
    """
    errors: dict[str, float] = {}
    low_bit = [unit for unit in units if _is_low_bit(unit)] if settings.iterations else []
    total_steps = max(1, len(low_bit) * settings.iterations)
    steps_done = 0

    def advance() -> None:
        nonlocal steps_done
        steps_done += 1
        on_progress(f"reconstructing {unit.name}", steps_done / total_steps)

    if low_bit:
        images = with_mixtures(images, views, seed=seed, flip=flip)
    float_inputs = quantized_inputs = store.run(prepare, images)
    for index, unit in enumerate(units):
        set_phase(unit.module, Phase.FLOAT)
        targets = store.run(unit.module, float_inputs)
        set_phase(unit.module, Phase.QUANTIZED)
        with torch.no_grad():  # the first pass sets the ranges of activations
            unit.module(quantized_inputs[: 2 * store.batch_size].to(store.device))
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
        outputs = store.run(unit.module, quantized_inputs)
        error = _relative_squared_error(outputs, targets, store.batch_size)
        layers = _layers(unit)
        if correct_bias or (
            correct_bias is None and any(is_depthwise(each.layer) for each in layers)
        ):
            changed = correct_biases(unit, float_inputs, quantized_inputs, layers, store=store)
            corrected = store.run(unit.module, quantized_inputs)
            corrected_error = _relative_squared_error(corrected, targets, store.batch_size)
            # It is larger where a layer has learned to compensate for the shift of an earlier one.
            if corrected_error < error:
                outputs, error = corrected, corrected_error
            else:
                for layer in changed:
                    layer.bias_correction = None
            del corrected
        float_inputs, quantized_inputs = targets, outputs
        errors |= dict.fromkeys(unit.layers, error)
    return errors


def _relative_squared_error(values: Tensor, references: Tensor, batch_size: int) -> float:
    """``|| values - references ||**2 / || references ||**2``, summed batch by batch."""
    error = size = 0.0
    for value, reference in zip(
        values.split(batch_size), references.split(batch_size), strict=True
    ):
        error += float((value.to(reference.device) - reference).square().sum())
        size += float(reference.square().sum())
    return error / max(size, 1e-24)


def _layers(unit: Unit) -> list[LearnableLayer]:
    """The layers of a unit in execution order."""
    layers = [unit.module.get_submodule(name) for name in unit.layers]
    return [layer for layer in layers if isinstance(layer, LearnableLayer)]


def _is_low_bit(unit: Unit) -> bool:
    return any(
        module.bits < 8
        for module in unit.module.modules()
        if isinstance(module, (LearnableLayer, LearnableActivation))
    )
