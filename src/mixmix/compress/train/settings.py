"""Settings of distillation on synthetic images."""

from __future__ import annotations

from dataclasses import dataclass, field

from mixmix._settings import Settings
from mixmix.compress.train.augmentation import Augmentation
from mixmix.errors import InputError

__all__ = ["TrainingSettings"]

_OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """Optimizer, loss and augmentation of training a student to match its teacher.

    The loss is ``kl_weight * kl_loss + feature_weight * feature_loss``. Outputs of networks without
    classes are compared as features, too.

    Attributes:
        steps: optimizer steps.
        batch_size: images in a step, over all processes.
        optimizer: ``adamw``, or ``sgd`` with Nesterov momentum of 0.9.
        learning_rate: peak learning rate; it decays to zero along a cosine.
        warmup: fraction of the steps in which the learning rate rises from zero.
        weight_decay: weight decay of all parameters.
        temperature: temperature of the KL divergence.
        kl_weight: weight of the KL divergence of the logits.
        feature_weight: weight of the distance between features, for networks that return them.
        augmentation: augmentation of the images.
        ema_decay: decay of the exponential moving average of the weights, which the student
            returns with; None uses the last weights.
        max_gradient_norm: norm that gradients are clipped to; None disables clipping.
        checkpoint_steps: steps between checkpoints, if there is a folder for them.

    Raises:
        InputError: if a value is out of range, or both weights are 0.

    Examples:
        >>> mixmix.TrainingSettings(steps=500).learning_rate
        0.001
    """

    steps: int = 2000
    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.0
    temperature: float = 4.0
    kl_weight: float = 1.0
    feature_weight: float = 1.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    ema_decay: float | None = None
    max_gradient_norm: float | None = None
    checkpoint_steps: int = 200

    def __post_init__(self) -> None:
        self._require_int("steps", "batch_size", "checkpoint_steps", least=1)
        self._require_range("learning_rate", "temperature", low=0, ends="(]")
        self._require_range("weight_decay", "kl_weight", "feature_weight", low=0)
        self._require_one_of("optimizer", _OPTIMIZERS)
        self._require_range("warmup", low=0, high=1, ends="[)")
        self._require_range("ema_decay", low=0, high=1, ends="()", optional=True)
        self._require_range("max_gradient_norm", low=0, ends="(]", optional=True)
        if not (self.kl_weight or self.feature_weight):
            raise InputError("every weight of the loss is 0; raise kl_weight or feature_weight")
