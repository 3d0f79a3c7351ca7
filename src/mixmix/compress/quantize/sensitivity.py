"""How much each layer's bits harm the network's output, measured on synthetic images."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from mixmix.compress.divergence import mean_divergence, run_in_batches
from mixmix.compress.method import Compressed, Progress
from mixmix.compress.quantize.bits import parse_bits
from mixmix.compress.quantize.calibrate_units import learnable_units
from mixmix.compress.quantize.insertion import input_quantizers, insert_quantizers
from mixmix.compress.quantize.learnable import LearnableActivation, LearnableLayer, Phase
from mixmix.compress.quantize.quantize import Quantize
from mixmix.compress.quantize.sensitivity_table import LayerSensitivity, SensitivityTable
from mixmix.data.images import Images, as_images
from mixmix.errors import InputError
from mixmix.graph.capture import relative_error
from mixmix.graph.costs import count_layer_macs
from mixmix.graph.layers import check_layer_names
from mixmix.graph.masks import layer_masks
from mixmix.models.loading import Reference, load
from mixmix.models.model import normalize
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
    on_progress: Progress = lambda what, share: None,
) -> SensitivityTable:
    """Quantize one layer at a time, rounding to nearest, and compare the network's outputs.

    Everything before the layer stays as it is, so only what comes behind runs anew: the cost is
    about half a forward pass of ``num_images`` images for each layer and choice.

    Args:
        model: as for ``compress``; it is not changed.
        data: images to measure on, as for ``compress``.
        choices: bits that a layer may have, such as ``W4A8``.
        quantize: how the network is to be quantized, by default ``Quantize()``. Its
            ``first_last_bits`` and ``layer_bits`` leave the layers that they are for no choice;
            its ``bits`` and reconstruction play no part.
        num_images: how many of the images, chosen at random.
        seed: of the choice of images.
        on_progress: called with (what is being done, share done).

    Returns:
        The table. A layer that shares its input with one whose bits are given has as many
        activation bits as that, whatever the choices say.

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
    given = {name: parse_bits(bits) for name, bits in (quantize.layer_bits or {}).items()}
    allowed = list(dict.fromkeys(map(parse_bits, choices)))
    if not allowed:
        raise InputError("choices is empty; give the bits a layer may have, such as W4A8")
    if num_images < 2:
        raise InputError(f"num_images must be at least 2, got {num_images}")
    original = _loaded(model)
    images = _chosen_images(data, original, num_images, seed)
    folded, _ = quantize.captured(original.module, images[:4])
    kept = layer_masks(folded, original.masks)
    groups = _input_groups(_Probe(folded, images, allowed[0], quantize, kept).quantizers)
    names = list(groups)
    if not names:
        raise InputError(f"{original.spec.name} has no convolution or linear layer to quantize")
    check_layer_names(given, names)
    outer_bits = quantize.first_last_bits
    if outer_bits is not None:
        given = dict.fromkeys((names[0], names[-1]), (outer_bits, outer_bits)) | given
    harms = _measure_all(
        folded,
        images,
        _candidates(groups, allowed, given),
        quantize,
        kept,
        on_progress=on_progress,
    )
    macs = count_layer_macs(folded, original.spec.input_shape)
    weights = {name: _weight(folded, name) for name in names}
    num_weights = {name: weight.numel() for name, weight in weights.items()}
    num_scales = sum(len(w) if quantize.per_channel else 1 for w in weights.values())
    num_folded = sum(p.numel() for p in folded.parameters())
    return SensitivityTable(
        model=original.spec.name,
        layers=tuple(
            LayerSensitivity(
                name=name,
                num_weights=num_weights[name],
                macs=macs.get(name, 0),
                input_group=groups[name],
                divergence={bits: divergence for bits, (divergence, _) in harms[name].items()},
                logit_error={bits: error for bits, (_, error) in harms[name].items()},
            )
            for name in names
        ),
        num_parameters=sum(p.numel() for p in original.module.parameters()),
        num_floats=num_folded - sum(num_weights.values()) + num_scales,
        num_images=len(images),
        seed=seed,
    )


def _measure_all(
    folded: fx.GraphModule,
    images: Tensor,
    candidates: Mapping[str, Sequence[tuple[int, int]]],
    quantize: Quantize,
    kept: Mapping[str, Tensor],
    *,
    on_progress: Progress,
) -> dict[str, dict[str, tuple[float, float]]]:
    """Divergence and logit error of each layer with each of its candidates."""
    harms: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in candidates}
    total = sum(map(len, candidates.values()))
    for bits in sorted({bits for several in candidates.values() for bits in several}):
        probe = _Probe(folded, images, bits, quantize, kept)
        for name in (name for name, several in candidates.items() if bits in several):
            logits = probe.logits(name)
            harms[name]["W{}A{}".format(*bits)] = (
                mean_divergence(probe.float_logits, logits),
                relative_error(logits, probe.float_logits),
            )
            on_progress("measuring sensitivity", sum(map(len, harms.values())) / total)
    return harms


def _weight(graph_module: fx.GraphModule, name: str) -> Tensor:
    layer = graph_module.get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer.weight


class _Probe:
    """A network with quantizers of one setting everywhere, all of them off, cut into units."""

    def __init__(
        self,
        folded: fx.GraphModule,
        images: Tensor,
        bits: tuple[int, int],
        quantize: Quantize,
        kept: Mapping[str, Tensor],
    ) -> None:
        self.whole = copy.deepcopy(folded)
        weight_bits, activation_bits = bits
        insert_quantizers(
            self.whole,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            first_last_bits=None,
            input_bits=quantize.input_bits,
            per_channel=quantize.per_channel,
            symmetric_weights=quantize.symmetric_weights,
            symmetric_activations=quantize.symmetric_activations,
            quantize_prob=1.0,
            kept=kept,
        )
        self.quantizers = input_quantizers(self.whole)
        self.units = [unit.module for unit in learnable_units(self.whole)]
        self.inputs = [images]
        for unit in self.units:
            self.inputs.append(run_in_batches(unit, self.inputs[-1]))
        self.float_logits = self.inputs.pop()

    def logits(self, name: str) -> Tensor:
        """Logits (N, K) with the layer of this name, and its input, quantized alone."""
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


def _loaded(model: Compressed | Reference) -> Compressed:
    if isinstance(model, Compressed):
        return model
    network = load(model)
    return Compressed(network.module, network.spec)


def _chosen_images(data: Images, model: Compressed, count: int, seed: int) -> Tensor:
    """Normalized images (count, C, H, W) on the model's device."""
    if model.spec.num_classes < 1:
        raise InputError(
            f"{model.spec.name} has no label head; sensitivity is measured by its predictions"
        )
    images = as_images(data, model.spec)
    order = torch.randperm(len(images), generator=seeding.generator(seed, "sensitivity"))
    images = normalize(images[order[:count]], model.spec)
    return images.to(next(model.module.parameters()).device)


def _input_groups(quantizers: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Number the sets of layers that are connected by quantizers they share."""
    groups: dict[str, int] = {}
    group_of_quantizer: dict[str, int] = {}
    for index, (name, sources) in enumerate(quantizers.items()):
        met = {group_of_quantizer[source] for source in sources if source in group_of_quantizer}
        group = min(met, default=index)
        for mapping in (groups, group_of_quantizer):
            mapping.update({key: group for key, old in mapping.items() if old in met})
        groups[name] = group
        group_of_quantizer.update(dict.fromkeys(sources, group))
    return groups


def _candidates(
    groups: Mapping[str, int],
    allowed: Sequence[tuple[int, int]],
    given: Mapping[str, tuple[int, int]],
) -> dict[str, list[tuple[int, int]]]:
    """The bits that each layer may have."""
    held: dict[int, int] = {}
    for name, (_, activation_bits) in given.items():
        held[groups[name]] = max(activation_bits, held.get(groups[name], 0))
    bits_of_layer = {}
    for name, group in groups.items():
        several = [given[name]] if name in given else list(allowed)
        if group in held:
            several = [(weight_bits, held[group]) for weight_bits, _ in several]
        bits_of_layer[name] = sorted(set(several))
    return bits_of_layer
