"""Recovery by training from end to end: the student learns its teacher's logits and features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixmix.compression.method import Progress
from mixmix.compression.pruning.sparsity import hold_masks
from mixmix.compression.recovery.recover import Patient, sizes_of_parameters
from mixmix.compression.training.image_source import MoreImages, source_of
from mixmix.compression.training.settings import TrainingSettings
from mixmix.compression.training.train import train_
from mixmix.compression.unit_pairs import chains_of

__all__ = ["FineTune"]

# From single runs of 600 steps on a ResNet-44 at 90% zeros, judged by images of the training split:
# features weigh more than logits, half of the images are mixed, a high rate does better than a low.
_TRAINING = TrainingSettings(
    steps=1200,
    batch_size=32,
    learning_rate=2e-2,
    feature_weight=100.0,
)


@dataclass(frozen=True)
class FineTune:
    """Train all that is left for what the original gives: logits, and the outputs of units.

    BatchNorm keeps its statistics, and its factors and shifts are trained.

    Attributes:
        training: steps, rates, loss and augmentation. The learning rate is relative to the size
            of a parameter (the root mean square of a layer's weights), and means the same for
            every network.
        fresh: makes more images during training, unless it is None.
        checkpoints: a folder for checkpoints, from which the same call goes on, or None.
    """

    training: TrainingSettings = _TRAINING
    fresh: MoreImages | None = None
    checkpoints: str | Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "recovery": "fine-tune",
            "training": self.training.to_dict(),
            "fresh": None if self.fresh is None else self.fresh.to_dict(),
        }

    def recover_(self, patient: Patient, *, on_progress: Progress) -> None:
        """Train the student in place."""
        student, teacher = chains_of(patient.pairs)
        module = patient.student.module
        sizes = sizes_of_parameters(module)
        names = {name: sizes.get(p, 1.0) for name, p in student.named_parameters()}
        source = source_of(
            self.fresh, teacher, patient.spec, seed=patient.seed, on_progress=on_progress
        )
        module.requires_grad_(True)
        try:
            with hold_masks(module, patient.masks):
                train_(
                    student.eval(),
                    teacher.eval(),
                    patient.data,
                    patient.spec,
                    self.training,
                    seed=patient.seed,
                    out=self.checkpoints,
                    rate_of=lambda name: names[name],
                    source=source,
                    on_progress=on_progress,
                )
        finally:
            module.requires_grad_(False)
