"""Sensitivity of each layer: how much the predictions change if only it is quantized."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from mixmix.compress.divergence import mean_divergence, run_in_batches
from mixmix.compress.method import Compressed, Progress
from mixmix.compress.quantize.bits import parse_bits
from mixmix.compress.quantize.calibrate_units import learnable_units
from mixmix.compress.quantize.insertion import input_quantizers
from mixmix.compress.quantize.learnable import LearnableActivation, LearnableLayer, Phase
from mixmix.compress.quantize.quantize import Quantize
from mixmix.compress.quantize.sensitivity_table import LayerSensitivity, SensitivityTable
from mixmix.data.images import Images, as_images
from mixmix.errors import InputError
from mixmix.graph.costs import count_layer_macs
from mixmix.graph.layers import check_layer_names
from mixmix.graph.masks import layer_masks
from mixmix.models.loading import Reference, load
from mixmix.models.model import normalize
from mixmix.models.spec import ModelSpec
from mixmix.runtime import seeding

__all__ = ["measure_sensitivity"]


def measure_sensitivity(
    model: Compressed | Reference,
    data: Images,
    *,
    choices: Sequence[str] = ("W2A8", "W3A8", "W4A8", "W8A8"),
    quantize: Quantize | None = None,
    num_images: int = 128,
    seed: int = 0,
    on_progress: Progress = lambda what, fraction: None,
) -> SensitivityTable:
    """Quantize one layer at a time, rounding to nearest, and compare the network's outputs.

    Only the layer and those after it run again, so the cost is about half a forward pass of
    ``num_images`` images for each layer and choice.

    Args:
        model: anything that ``compress`` takes; it is not changed.
        data: images, as for ``compress``.
        choices: bits that a layer may have, such as ``W4A8``.
        quantize: how the network will be quantized (default: ``Quantize()``). Layers in its
            ``layer_bits``, and the first and last layer by its ``first_last_bits``, are measured
            with those bits only. Its ``bits`` and ``reconstruction`` are ignored.
        num_images: number of images to measure on, chosen at random.
        seed: seed of the choice of images.
        on_progress: called with (a description, fraction done in [0, 1]).

    Returns:
        The table. A layer that shares its input with a layer of fixed bits has the activation bits
        of that layer.

    Raises:
        CaptureError: if the model cannot be captured as a graph.
        InputError: if it has no label head or no layer to quantize, or an argument is out of range.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)
        ... )
        >>> model = mixmix.load(net, input_shape=(3, 8, 8), mean=0.5, std=0.25)
        >>> quantize = mixmix.Quantize(first_last_bits=None)
        >>> mixmix.measure_sensitivity(
        ...     model, torch.rand(16, 3, 8, 8), choices=("W4A8", "W8A8"), quantize=quantize
        ... )
        SensitivityTable(model=Sequential, layers=2, choices=(W4A8, W8A8), images=16)
    """
    quantize = quantize or Quantize()
    given = {
        name: parse_bits(bits)
        for name, bits in (quantize.layer_bits or {}).items()
        if name not in quantize.float_layers
    }
    allowed = list(dict.fromkeys(map(parse_bits, choices)))
    if not allowed:
        raise InputError("choices is empty; list the bits that a layer may have, such as W4A8")
    if num_images < 2:
        raise InputError(f"num_images must be at least 2, got {num_images}")
    original = model
    if not isinstance(original, Compressed):
        network = load(original)
        original = Compressed(network.module, network.spec)
    images = _chosen_images(data, original, num_images, seed)
    folded, _ = quantize.captured(original.module, images[:4])
    masks = layer_masks(folded, original.masks)
    groups = _input_groups(_Probe(folded, images, allowed[0], quantize, masks).quantizers)
    names = list(groups)
    if not names:
        raise InputError(f"{original.spec.name} has no convolution or linear layer to quantize")
    check_layer_names(given, names)
    outer_bits = quantize.first_last_bits
    if outer_bits is not None:
        given = dict.fromkeys((names[0], names[-1]), (outer_bits, outer_bits)) | given
    candidates = _candidates(groups, allowed, given)
    increases = _measure_all(
        folded, images, candidates, quantize, masks, original.spec, on_progress=on_progress
    )
    macs = count_layer_macs(folded, original.spec.input_shape)
    weights = {name: folded.get_parameter(f"{name}.weight") for name in names}
    num_weights = sum(weight.numel() for weight in weights.values())
    num_scales = sum(len(w) if quantize.per_channel else 1 for w in weights.values())
    return SensitivityTable(
        model=original.spec.name,
        layers=tuple(
            LayerSensitivity(
                name, weights[name].numel(), macs.get(name, 0), groups[name], increases[name]
            )
            for name in names
        ),
        num_parameters=sum(p.numel() for p in original.module.parameters()),
        num_floats=sum(p.numel() for p in folded.parameters()) - num_weights + num_scales,
        num_images=len(images),
        seed=seed,
    )


def _measure_all(
    folded: fx.GraphModule,
    images: Tensor,
    candidates: Mapping[str, Sequence[tuple[int, int]]],
    quantize: Quantize,
    masks: Mapping[str, Tensor],
    spec: ModelSpec,
    *,
    on_progress: Progress,
) -> dict[str, dict[str, float]]:
    """Divergence by layer name and bits."""
    increases: dict[str, dict[str, float]] = {name: {} for name in candidates}
    total = sum(map(len, candidates.values()))
    for bits in sorted({bits for several in candidates.values() for bits in several}):
        probe = _Probe(folded, images, bits, quantize, masks)
        for name in (name for name, several in candidates.items() if bits in several):
            divergence = mean_divergence(probe.float_logits, probe.logits(name), spec)
            increases[name]["W{}A{}".format(*bits)] = divergence
            on_progress("measuring sensitivity", sum(map(len, increases.values())) / total)
    return increases


class _Probe:
    """A network with quantizers of the same bits everywhere, all disabled, split into units."""

    def __init__(
        self,
        folded: fx.GraphModule,
        images: Tensor,
        bits: tuple[int, int],
        quantize: Quantize,
        masks: Mapping[str, Tensor],
    ) -> None:
        self.whole = copy.deepcopy(folded)
        uniform = replace(
            quantize,
            bits="W{}A{}".format(*bits),
            first_last_bits=None,
            layer_bits=quantize.float_layers or None,
        )
        uniform.insert(self.whole, masks)
        self.quantizers = input_quantizers(self.whole)
        self.units = [unit.module for unit in learnable_units(self.whole)]
        self.inputs = [images]
        for unit in self.units:
            self.inputs.append(run_in_batches(unit, self.inputs[-1]))
        self.float_logits = self.inputs.pop()

    def logits(self, name: str) -> Tensor:
        """Logits (N, K) with only this layer and its input quantized."""
        parts = [self.whole.get_submodule(part) for part in (name, *self.quantizers[name])]
        start = min(
            index
            for index, unit in enumerate(self.units)
            if any(module in parts for module in unit.modules())
        )
        x = self.inputs[start]
        _set_phases(parts, Phase.QUANTIZED)
        for unit in self.units[start:]:
            x = run_in_batches(unit, x)
        _set_phases(parts, Phase.FLOAT)
        return x


def _set_phases(parts: Sequence[nn.Module], phase: Phase) -> None:
    for part in parts:
        assert isinstance(part, LearnableLayer | LearnableActivation)
        part.phase = phase


def _chosen_images(data: Images, model: Compressed, count: int, seed: int) -> Tensor:
    """Normalized images (count, C, H, W) on the model's device."""
    if model.spec.num_classes < 1:
        raise InputError(
            f"{model.spec.name} has no label head, whose predictions sensitivity is measured by"
        )
    images = as_images(data, model.spec)
    order = torch.randperm(len(images), generator=seeding.generator(seed, "sensitivity"))
    images = normalize(images[order[:count]], model.spec)
    return images.to(next(model.module.parameters()).device)


def _input_groups(quantizers: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Number the groups of layers that are connected by shared quantizers."""
    groups: dict[str, int] = {}
    group_of_quantizer: dict[str, int] = {}
    for index, (name, sources) in enumerate(quantizers.items()):
        connected = {
            group_of_quantizer[source] for source in sources if source in group_of_quantizer
        }
        group = min(connected, default=index)
        for mapping in (groups, group_of_quantizer):
            mapping.update({key: group for key, old in mapping.items() if old in connected})
        groups[name] = group
        group_of_quantizer.update(dict.fromkeys(sources, group))
    return groups


def _candidates(
    groups: Mapping[str, int],
    allowed: Sequence[tuple[int, int]],
    given: Mapping[str, tuple[int, int]],
) -> dict[str, list[tuple[int, int]]]:
    """The bits that each layer may have."""
    fixed: dict[int, int] = {}
    for name, (_, activation_bits) in given.items():
        fixed[groups[name]] = max(activation_bits, fixed.get(groups[name], 0))
    bits_of_layer = {}
    for name, group in groups.items():
        several = [given[name]] if name in given else list(allowed)
        if group in fixed:
            several = [(weight_bits, fixed[group]) for weight_bits, _ in several]
        bits_of_layer[name] = sorted(set(several))
    return bits_of_layer
