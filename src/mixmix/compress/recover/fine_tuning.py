"""Recovery by fine-tuning: the student is trained on its teacher's logits and features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixmix.compress.divergence import mean_divergence, run_in_batches
from mixmix.compress.method import Progress
from mixmix.compress.recover.recover import Recovery, RecoveryContext, parameter_scales
from mixmix.compress.train.augmentation import WIDE_VIEWS, fitting
from mixmix.compress.train.held_out import hold_out, mixtures_of
from mixmix.compress.train.image_source import MoreImages, source_of
from mixmix.compress.train.settings import TrainingSettings
from mixmix.compress.train.train import train_
from mixmix.errors import InputError
from mixmix.graph.masks import hold_masks
from mixmix.graph.unit_pairs import chains_of
from mixmix.models.spec import ModelSpec
from mixmix.runtime import distributed

__all__ = ["FineTune", "interpolate_"]

# Chosen by single runs on a ResNet-44 with few channels or many zeros, evaluated on images of the
# training split.
_TRAINING = TrainingSettings(
    steps=1200,
    batch_size=32,
    learning_rate=2e-2,
    feature_weight=300.0,
    augmentation=replace(WIDE_VIEWS, mixing=("shrink", "cutmix", "mixup"), mixing_prob=0.75),
)
# Weights of the interpolation between the parameters before and after training, largest first.
_FRACTIONS = tuple(fraction / 8 for fraction in range(8, -1, -1))


@dataclass(frozen=True)
class FineTune(Recovery):
    """Train the student on the logits and unit outputs of the original.

    BatchNorm keeps its statistics; its weights and biases are trained.

    The result is the interpolation between the weights before and after training (WiSE-FT, Wortsman
    et al. 2022) whose predictions for mixtures of held-out images are closest to the teacher's (in
    mean Kullback-Leibler divergence). This limits overfitting to the images.

    Attributes:
        training: steps, learning rate, loss and augmentation. The learning rate is relative to the
            scale of a parameter (root mean square of a layer's weights), and means the same for
            every network.
        fresh: generates more images during training; None trains only on the given images.
        checkpoints: folder for checkpoints, from which an interrupted run resumes.
        held_out: images that are not trained on, at most one of nine; 0 trains on all images and
            uses the weights after training.

    Raises:
        InputError: if ``held_out`` is negative.

    Example::

        >>> import mixmix
        >>> short = mixmix.FineTune(mixmix.TrainingSettings(steps=100))
        >>> method = mixmix.PruneChannels(max_macs=0.5, recovery=short)
    """

    kind: ClassVar[str] = "fine-tune"

    training: TrainingSettings = _TRAINING
    fresh: MoreImages | None = None
    checkpoints: str | Path | None = field(default=None, compare=False)
    held_out: int = 64

    def __post_init__(self) -> None:
        if self.held_out < 0:
            raise InputError(f"held_out must not be negative, got {self.held_out}")

    def shortened(self, fraction: float) -> FineTune:
        """A fraction of the steps, without generating images and without checkpoints."""
        steps = max(1, round(fraction * self.training.steps))
        training = replace(self.training, steps=steps)
        return replace(self, training=training, fresh=None, checkpoints=None)

    def recover_(self, context: RecoveryContext, *, on_progress: Progress) -> None:
        """Train the student in place."""
        student, teacher = chains_of(context.pairs)
        module = context.student.module
        scales = parameter_scales(module)
        rates = {name: scales.get(p, 1.0) for name, p in student.named_parameters()}
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        trained, held_out = hold_out(context.data, self.held_out)
        source = source_of(
            self.fresh, teacher, context.spec, seed=context.seed, on_progress=on_progress
        )
        module.requires_grad_(True)
        try:
            with hold_masks(module, context.masks):
                train_(
                    student.eval(),
                    teacher.eval(),
                    trained,
                    context.spec,
                    self.training,
                    seed=context.seed,
                    out=self.checkpoints,
                    rate_of=lambda name: rates[name],
                    source=source,
                    method=self,
                    on_progress=on_progress,
                )
        finally:
            module.requires_grad_(False)
        if held_out is not None:
            augmentation = fitting(self.training.augmentation, context.spec)
            mixtures = mixtures_of(held_out, augmentation, seed=context.seed)
            inputs = context.prepared(mixtures)
            logits = run_in_batches(nn.Sequential(*teacher.units), inputs)
            interpolate_(module, before, inputs, logits, context.spec)


@torch.no_grad()
def interpolate_(
    student: nn.Module,
    before: Mapping[str, Tensor],
    inputs: Tensor,
    logits: Tensor,
    spec: ModelSpec | None = None,
) -> None:
    """Interpolate a trained student's parameters in place with those before training, by name.

    The fraction is the one whose predictions for ``inputs`` are closest to ``logits`` (N, K).
    """
    after = {name: p.clone() for name, p in student.named_parameters()}

    def set_fraction(fraction: float) -> None:
        for name, parameter in student.named_parameters():
            parameter.copy_(before[name].lerp(after[name], fraction))

    def divergence(fraction: float) -> float:
        set_fraction(fraction)
        return mean_divergence(logits, run_in_batches(student, inputs), spec)

    set_fraction(distributed.from_main(lambda: min(_FRACTIONS, key=divergence)))
