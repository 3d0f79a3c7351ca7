"""Quantization-aware training: distill a float network into its quantized copy."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from mixmix.compress.divergence import mean_divergence, run_in_batches
from mixmix.compress.method import Compressed, LayerRecord, Method, Progress
from mixmix.compress.quantize.calibrate_units import learnable_units
from mixmix.compress.quantize.learnable import (
    LearnableActivation,
    LearnableLayer,
    Phase,
    set_phase,
)
from mixmix.compress.quantize.lsq import StepSizeActivation, StepSizeLayer
from mixmix.compress.quantize.quantize import Quantize, deploy_
from mixmix.compress.train.augmentation import WIDE_VIEWS, fitting
from mixmix.compress.train.held_out import hold_out, mixtures_of
from mixmix.compress.train.image_source import MoreImages, source_of
from mixmix.compress.train.settings import TrainingSettings
from mixmix.compress.train.train import train_
from mixmix.data.image_set import ImageSet
from mixmix.graph.unit_pairs import UnitChain, UnitPair, chains_of, pair_units, unit_errors
from mixmix.graph.units import Unit
from mixmix.models.model import normalize
from mixmix.models.spec import ModelSpec
from mixmix.runtime import distributed

__all__ = ["QuantizeAware"]

# Chosen for a ResNet-20 at W3A3 from single runs, whose differences are about as large as noise.
_TRAINING = TrainingSettings(
    steps=1800,
    batch_size=32,
    learning_rate=1e-2,
    feature_weight=100.0,
    augmentation=replace(WIDE_VIEWS, mixing_prob=1.0),
)
# Learning rate of the logarithms of scales, relative to that of weights in steps of their grid.
_SCALE_RATE = 0.1


@dataclass(frozen=True)
class QuantizeAware(Method):
    """Quantize, then train weights, biases and all scales (LSQ, Esser et al. 2020).

    The teacher is the float network: the student learns its logits and the output of each of its
    units. BatchNorm is folded before training. For a pruned network, the teacher is the original
    network, unless layers are equalized, which changes the scale of units' outputs; pruned weights
    stay zero.

    Training can overfit to the images. Therefore the trained network is compared with that of
    ``base``, by the mean Kullback-Leibler divergence from the teacher on mixtures of held-out
    images, and the better one is returned. Both divergences are in the results:
    ``{"divergence": {"base": ..., "trained": ...}}``.

    Attributes:
        base: how the network is quantized before training.
        training: steps, rates, loss and augmentation. With AdamW, the learning rate is in steps of
            the grid, and has the same effect for every network.
        fresh: generates more images during training; None trains only on the given images.
        checkpoints: folder for checkpoints, from which an interrupted run resumes.
        held_out: number of images that are held out, at most one in nine; 0 trains on all images,
            and always returns the trained network.

    Raises:
        InputError: if ``held_out`` is negative.

    Examples:
        >>> mixmix.QuantizeAware(mixmix.Quantize("W3A3")).setting
        'W3A3, trained'
    """

    kind: ClassVar[str] = "quantize-aware"

    base: Quantize = field(default_factory=lambda: Quantize("W4A4", first_last_bits=None))
    training: TrainingSettings = _TRAINING
    fresh: MoreImages | None = None
    checkpoints: str | Path | None = field(default=None, compare=False)
    held_out: int = 64

    def __post_init__(self) -> None:
        self._require_int("held_out", least=0)

    @property
    def setting(self) -> str:
        return f"{self.base.setting}, trained"

    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Quantize and train a copy of the model.

        Raises:
            CaptureError: if the model cannot be captured as a graph.
            InputError: if it has no layer to quantize, if training diverges, or if the folder of
                checkpoints contains another run.
        """
        data, held_out = hold_out(data, self.held_out)
        calibrated = self.base.calibrate(model, data, seed=seed, on_progress=on_progress)
        graph_module = calibrated.graph_module
        base = deploy_(copy.deepcopy(graph_module))
        trained = copy.deepcopy(graph_module)
        _replace(trained, LearnableLayer, StepSizeLayer)
        _replace(trained, LearnableActivation, StepSizeActivation)
        trained.recompile()
        set_phase(graph_module, Phase.FLOAT)
        units = learnable_units(trained, layer=StepSizeLayer, quantizer=StepSizeActivation)
        float_units = learnable_units(graph_module)
        pairs = [UnitPair(*pair) for pair in zip(units, float_units, strict=True)]
        if model.original is not None and not self.base.equalizes:
            pairs = self._pairs_with_original(model, trained, units, data)
        student, teacher = chains_of(pairs)
        source = source_of(self.fresh, teacher, model.spec, seed=seed, on_progress=on_progress)
        train_(
            student,
            teacher,
            data,
            model.spec,
            self.training,
            seed=seed,
            out=self.checkpoints,
            rate_of=lambda name: _SCALE_RATE if name.endswith("log_scale") else 1.0,
            source=source,
            method=self,
            on_progress=on_progress,
        )
        device = next(trained.parameters()).device
        with torch.random.fork_rng():  # quantizers draw from the global generator
            errors = unit_errors(
                UnitChain(units),
                UnitChain(float_units),
                data.images,
                lambda batch: normalize(batch.to(device), model.spec),
            )
        for kind in (StepSizeLayer, StepSizeActivation):
            _replace(trained, kind, kind.deployed)
        trained.recompile()
        trained.eval().requires_grad_(False)
        result, results = trained, {}
        records = tuple(_with_error(record, errors) for record in calibrated.records)
        if held_out is not None:
            augmentation = fitting(self.training.augmentation, model.spec)
            images = mixtures_of(held_out, augmentation, seed=seed)
            students = {"base": base, "trained": trained}
            found = distributed.from_main(
                lambda: _divergences(students, teacher, images, model.spec)
            )
            results["divergence"] = found
            if found["trained"] > found["base"]:
                result, records = base, calibrated.records
        return model.with_method(self, results, module=result, records=records)

    def _pairs_with_original(
        self,
        model: Compressed,
        trained: fx.GraphModule,
        units: list[Unit],
        data: ImageSet,
    ) -> list[UnitPair]:
        """Pairs of trained units and float units of the network before pruning."""
        assert model.original is not None
        device = next(model.original.parameters()).device
        example = normalize(data.images[:4].to(device), model.spec)
        graph_module, _ = self.base.captured(model.original, example)
        self.base.insert(graph_module)
        set_phase(graph_module, Phase.FLOAT)
        both = (units, learnable_units(graph_module))
        return pair_units(trained, graph_module, both, example, kept_channels=model.kept_channels)


def _divergences(
    students: Mapping[str, nn.Module],
    teacher: UnitChain,
    images: Tensor,
    spec: ModelSpec,
) -> dict[str, float]:
    """Mean Kullback-Leibler divergence of the teacher's predictions from each student's."""
    device = next(teacher.parameters()).device
    inputs = normalize(images.to(device), spec)
    wanted = run_in_batches(nn.Sequential(*teacher.units), inputs)
    return {
        name: mean_divergence(wanted, run_in_batches(student, inputs), spec)
        for name, student in students.items()
    }


def _with_error(record: LayerRecord, errors: dict[str, float]) -> LayerRecord:
    return replace(record, error=errors[record.name]) if record.name in errors else record


def _replace(graph_module: fx.GraphModule, kind: Any, build: Any) -> None:
    """Replace each module of a kind by ``build(module)``, in place."""
    for name, module in list(graph_module.named_modules()):
        if isinstance(module, kind):
            graph_module.set_submodule(name, build(module))
