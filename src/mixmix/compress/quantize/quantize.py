"""Post-training quantization on synthetic images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor, fx, nn

from mixmix.compress.activation_store import (
    ActivationStore,
    default_memory_gib,
    images_at_a_time,
)
from mixmix.compress.method import Compressed, LayerRecord, Method, Progress, with_channels
from mixmix.compress.quantize.bits import FLOAT, parse_bits
from mixmix.compress.quantize.calibrate_units import calibrate_units, learnable_units
from mixmix.compress.quantize.insertion import insert_quantizers
from mixmix.compress.quantize.learnable import LearnableActivation, LearnableLayer
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.compress.quantize.records import record_layers
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.graph.capture import capture, check_chain
from mixmix.graph.equalize import equalize_layers
from mixmix.graph.floats import mark_floats
from mixmix.graph.fold import fold_batch_norms
from mixmix.graph.masks import layer_masks, refuse_quantized
from mixmix.graph.simplify import drop_identities, write_out_silu
from mixmix.models.model import normalize
from mixmix.runtime.memory_layout import in_faster_layout

__all__ = ["Calibrated", "Quantize", "deploy_"]


@dataclass(frozen=True)
class Calibrated:
    """A network with calibrated learnable quantizers in the ``QUANTIZED`` phase."""

    graph_module: fx.GraphModule
    records: tuple[LayerRecord, ...]


@dataclass(frozen=True)
class Quantize(Method):
    """Quantize weights per output channel and activations per tensor, with BatchNorm folded.

    Scales minimize the squared error. Units with fewer than 8 bits are then reconstructed on the
    images (AdaRound, BRECQ, QDrop; see ``ReconstructionSettings``).

    Attributes:
        bits: ``W<weight bits>A<activation bits>``, such as ``W8A8``, ``W4A8``, ``W4A4``, ``W2A4``;
            2 to 8 each.
        first_last_bits: bits of the first and last layer and of their inputs; None treats them like
            the other layers.
        input_bits: bits of the images, whose pixels have 8 bits. With ``first_last_bits=None``, 8
            is what papers on data-free training (ZeroQ, GDFQ) call quantizing all layers.
            None treats images like the input of any other layer.
        per_channel: one weight scale per output channel; otherwise one per layer.
        symmetric_weights: use weight levels around zero. Otherwise affine levels with a zero point
            are also tried for each scale, and those with the smaller error are used.
        symmetric_activations: zero is the middle level, or the lowest if activations are not
            negative. Otherwise the zero point minimizes the error.
        equalize: equalize the weights of neighboring layers (see ``equalize``). By default, only
            around depthwise convolutions with one scale per layer.
        correct_bias: correct each bias so that the mean of its channel does not change (see
            ``bias_correction``), in units where this reduces the error. By default, only in units
            with a depthwise convolution.
        views: number of images to reconstruct units on: if there are fewer, mixtures of the images,
            most of them warped, are added (see ``views``). 0 adds none.
        memory_gib: memory for activations, in GiB; by default, half of the machine's memory. The
            rest is stored in temporary files, with the same result.
        reconstruction: settings of the reconstruction.
        layer_bits: bits such as ``W4A8``, or ``float``, by layer name, which override ``bits`` and
            ``first_last_bits``.

    Raises:
        InputError: if a value is out of range.

    Examples:
        >>> mixmix.Quantize("W4A4").to_dict()["first_last_bits"]
        8
    """

    kind: ClassVar[str] = "quantize"

    bits: str = "W8A8"
    first_last_bits: int | None = 8
    input_bits: int | None = 8
    per_channel: bool = True
    symmetric_weights: bool = True
    symmetric_activations: bool = False
    equalize: bool | None = None
    correct_bias: bool | None = None
    views: int = 1024
    memory_gib: float | None = None
    reconstruction: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    layer_bits: Mapping[str, str] | None = field(default=None, hash=False)  # dicts have no hash

    def __post_init__(self) -> None:
        parse_bits(self.bits)
        object.__setattr__(self, "bits", self.bits.upper())
        if self.layer_bits is not None:
            named = {}
            for name, bits in self.layer_bits.items():
                is_float = isinstance(bits, str) and bits.lower() == FLOAT
                if not is_float:
                    parse_bits(bits)
                named[name] = FLOAT if is_float else bits.upper()
            object.__setattr__(self, "layer_bits", named)
        self._require_range("first_last_bits", "input_bits", low=2, high=8, optional=True)
        self._require_int("views", least=0)
        self._require_range("memory_gib", low=0, ends="(]", optional=True)

    @property
    def setting(self) -> str:
        return self.bits

    @property
    def float_layers(self) -> dict[str, str]:
        """The part of ``layer_bits`` for layers that stay in float."""
        return {name: bits for name, bits in (self.layer_bits or {}).items() if bits == FLOAT}

    @property
    def equalizes(self) -> bool:
        """Whether any layers are equalized."""
        return bool(self.equalize) or (self.equalize is None and not self.per_channel)

    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Quantize a copy of the model.

        Raises:
            CaptureError: if the model cannot be captured as a graph.
            InputError: if it has no layer to quantize, ``layer_bits`` names a layer that does not
                exist, or activations fit neither into memory nor onto the disk.
        """
        calibrated = self.calibrate(model, data, seed=seed, on_progress=on_progress)
        return model.with_method(
            self, module=deploy_(calibrated.graph_module), records=calibrated.records
        )

    def captured(self, model: nn.Module, example: Tensor) -> tuple[fx.GraphModule, dict[str, str]]:
        """Capture a model as a graph that is ready for quantizers.

        BatchNorm is folded, layers are equalized, identities are removed and SiLU is decomposed.

        Args:
            model: takes images like ``example``; it is not changed.
            example: (N, C, H, W) normalized images.

        Returns:
            The graph, and the layer that each BatchNorm was folded into, by name.

        Raises:
            CaptureError: if the model cannot be captured as a graph.
        """
        graph_module = capture(model, example)
        drop_identities(graph_module, example)
        mark_floats(graph_module, example)
        folded = fold_batch_norms(graph_module, example)
        write_out_silu(graph_module)
        if self.equalizes:
            equalize_layers(graph_module, example, depthwise_only=self.equalize is None)
        return graph_module, folded

    def insert(
        self, graph_module: fx.GraphModule, masks: Mapping[str, Tensor] | None = None
    ) -> dict[str, int]:
        """Insert quantizers of these settings, in place; see ``insert_quantizers``."""
        weight_bits, activation_bits = parse_bits(self.bits)
        return insert_quantizers(
            graph_module,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            first_last_bits=self.first_last_bits,
            input_bits=self.input_bits,
            per_channel=self.per_channel,
            symmetric_weights=self.symmetric_weights,
            symmetric_activations=self.symmetric_activations,
            quantize_prob=self.reconstruction.quantize_prob,
            layer_bits={
                name: None if bits == FLOAT else parse_bits(bits)
                for name, bits in (self.layer_bits or {}).items()
            },
            masks=masks,
        )

    def calibrate(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Calibrated:
        """Calibrate a copy of the model whose quantizers are still learnable."""
        refuse_quantized(model.module, model.spec.name)
        device = next(model.module.parameters()).device
        example = in_faster_layout(normalize(data.images[:4].to(device), model.spec))
        graph_module, folded = self.captured(model.module, example)
        masks = layer_masks(graph_module, model.masks)
        input_bits = self.insert(graph_module, masks)
        if not input_bits:
            raise InputError(f"{model.spec.name} has no convolution or linear layer to quantize")
        units = learnable_units(graph_module)
        check_chain([unit.module for unit in units], model.module, example)
        memory_gib = default_memory_gib(device) if self.memory_gib is None else self.memory_gib
        batch_size = images_at_a_time(graph_module, example)
        with ActivationStore(memory_gib, batch_size=batch_size, device=device) as store:
            errors = calibrate_units(
                units,
                data.images,
                self.reconstruction,
                views=self.views,
                flip=model.spec.may_flip,
                prepare=lambda images: in_faster_layout(normalize(images, model.spec)),
                store=store,
                correct_bias=self.correct_bias,
                seed=seed,
                on_progress=on_progress,
            )
        records = record_layers(model.module, graph_module, folded, input_bits, errors, masks)
        records = tuple(
            replace(each, reason="kept in float by layer_bits")
            if each.name in self.float_layers
            else each
            for each in records
        )
        return Calibrated(graph_module, with_channels(records, model.records))


def deploy_(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Replace learnable quantizers by their final form in place; returns the graph in eval mode."""
    for name, module in list(graph_module.named_modules()):
        if isinstance(module, (LearnableLayer, LearnableActivation)):
            graph_module.set_submodule(name, module.deployed())
    graph_module.recompile()
    return graph_module.eval()
