"""Recovery by training from end to end: the student learns its teacher's logits and features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixmix.compress.divergence import mean_divergence, run_in_batches
from mixmix.compress.method import Progress
from mixmix.compress.recover.recover import Recovery, RecoveryContext, sizes_of_parameters
from mixmix.compress.train.augmentation import WIDE_VIEWS
from mixmix.compress.train.held_out import hold_out, mixtures_of
from mixmix.compress.train.image_source import MoreImages, source_of
from mixmix.compress.train.settings import TrainingSettings
from mixmix.compress.train.train import train_
from mixmix.errors import InputError
from mixmix.graph.masks import hold_masks
from mixmix.graph.unit_pairs import chains_of
from mixmix.runtime import distributed

__all__ = ["FineTune", "go_back_"]

# From single runs on a ResNet-44 with few channels or many zeros, judged by images of the training
# split: features weigh more than logits, nearly all images are warped and most are mixed, a high
# rate does better than a low one.
_TRAINING = TrainingSettings(
    steps=1200,
    batch_size=32,
    learning_rate=2e-2,
    feature_weight=300.0,
    augmentation=replace(WIDE_VIEWS, mixing=("shrink", "cutmix", "mixup"), mixing_prob=0.75),
)
# Shares of the way from the weights before training to those after it, the last of all first.
_FRACTIONS = tuple(fraction / 8 for fraction in range(8, -1, -1))


@dataclass(frozen=True)
class FineTune(Recovery):
    """Train all that is left for what the original gives: logits, and the outputs of units.

    BatchNorm keeps its statistics, and its factors and shifts are trained.

    The result lies between the weights before training and those after it (WiSE-FT, Wortsman et
    al. 2022), where predictions for mixtures of images that were held out come nearest to the
    teacher's (in mean Kullback-Leibler divergence): training fits the images, and photographs are
    others.

    Attributes:
        training: steps, rates, loss and augmentation. The learning rate is relative to the size
            of a parameter (the root mean square of a layer's weights), and means the same for
            every network.
        fresh: makes more images during training, unless it is None.
        checkpoints: a folder for checkpoints, from which the same call goes on, or None.
        held_out: images that are not trained on, at most one of nine; 0 trains on all, and keeps
            the weights that training ends with.
    """

    kind: ClassVar[str] = "fine-tune"
    uses_checkpoints: ClassVar[bool] = True

    training: TrainingSettings = _TRAINING
    fresh: MoreImages | None = None
    checkpoints: str | Path | None = field(default=None, compare=False)
    held_out: int = 64

    def __post_init__(self) -> None:
        if self.held_out < 0:
            raise InputError(f"held_out must not be negative, got {self.held_out}")

    def shortened(self, fraction: float) -> FineTune:
        """In a fraction of the steps, without making images and without checkpoints."""
        steps = max(1, round(fraction * self.training.steps))
        training = replace(self.training, steps=steps)
        return replace(self, training=training, fresh=None, checkpoints=None)

    def recover_(self, context: RecoveryContext, *, on_progress: Progress) -> None:
        """Train the student in place."""
        student, teacher = chains_of(context.pairs)
        module = context.student.module
        sizes = sizes_of_parameters(module)
        names = {name: sizes.get(p, 1.0) for name, p in student.named_parameters()}
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        trained, judged = hold_out(context.data, self.held_out)
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
                    rate_of=lambda name: names[name],
                    source=source,
                    on_progress=on_progress,
                )
        finally:
            module.requires_grad_(False)
        if judged is not None:
            inputs = context.prepared(
                mixtures_of(judged, self.training.augmentation, seed=context.seed)
            )
            wanted = run_in_batches(nn.Sequential(*teacher.units), inputs)
            go_back_(module, before, inputs, wanted)


@torch.no_grad()
def go_back_(
    student: nn.Module, before: Mapping[str, Tensor], inputs: Tensor, wanted: Tensor
) -> None:
    """Go the fraction of the way of training, in place, that gives the nearest predictions.

    Args:
        student: as training left it.
        before: its parameters as they were.
        inputs: (N, C, H, W) normalized images.
        wanted: (N, K) logits for them.
    """
    after = {name: p.clone() for name, p in student.named_parameters()}

    def go(fraction: float) -> None:
        for name, parameter in student.named_parameters():
            parameter.copy_(before[name].lerp(after[name], fraction))

    def divergence(fraction: float) -> float:
        go(fraction)
        return mean_divergence(wanted, run_in_batches(student, inputs))

    go(distributed.from_main(lambda: min(_FRACTIONS, key=divergence)))
