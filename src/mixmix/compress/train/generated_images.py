"""A bank of images that grows while a student is trained: new ones cost a few steps each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.compress.method import Progress
from mixmix.compress.train.image_source import ImageSource, MoreImages
from mixmix.compress.train.train import opponent_of
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.models.spec import ModelSpec
from mixmix.models.zoo import Zoo
from mixmix.runtime import seeding
from mixmix.synthesis.amortized import AmortizedSynthesizer
from mixmix.synthesis.amortized_settings import AmortizedSettings
from mixmix.synthesis.terms.observation import Student

__all__ = ["GeneratedImages"]


@dataclass(frozen=True)
class GeneratedImages(MoreImages):
    """Go on synthesizing with a generator (see ``synthesis.amortized``), into a bank of images.

    Before the first step, rounds are made to warm the generator up, whose images are not used, and
    then some that are; after every ``every_steps`` steps, ``rounds`` more are. The images that
    training was given stay in the bank; of the others the newest do.

    Attributes:
        zoo: what the images are made from.
        synthesis: how. With the term ``Adversarial``, once training has begun, images are made on
            which the student and the zoo disagree.
        warmup_rounds: before any image is kept.
        first_rounds: before the first step.
        every_steps: steps of training from one time to the next.
        rounds: at each of these times.
        capacity: most generated images in the bank.
    """

    kind: ClassVar[str] = "generated"
    needs_images: ClassVar[bool] = False

    zoo: Zoo = field(repr=False)
    synthesis: AmortizedSettings = field(default_factory=AmortizedSettings)
    warmup_rounds: int = 20
    first_rounds: int = 8
    every_steps: int = 25
    rounds: int = 1
    capacity: int = 32768

    def __post_init__(self) -> None:
        for name, least in (
            ("warmup_rounds", 0),
            ("first_rounds", 1),
            ("every_steps", 1),
            ("rounds", 1),
            ("capacity", self.synthesis.images_per_round),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")

    def source(
        self,
        teacher: nn.Module,
        spec: ModelSpec,
        *,
        seed: int,
        on_progress: Progress = lambda what, fraction: None,
    ) -> ImageSource:
        """What ``train_`` asks for images; progress is reported while the generator warms up."""
        return _GeneratedImageSource(self, spec, seed, on_progress)


class _GeneratedImageSource:
    def __init__(
        self, settings: GeneratedImages, spec: ModelSpec, seed: int, on_progress: Progress
    ) -> None:
        self._settings, self._spec, self._on_progress = settings, spec, on_progress
        self._synthesizer = AmortizedSynthesizer(
            settings.zoo, settings.synthesis, seed=seeding.child_seed(seed, "generated images")
        )
        self._generated = 0

    def images_for(self, step: int, student: nn.Module, data: ImageSet) -> ImageSet | None:
        settings = self._settings
        if step % settings.every_steps or (step == 0 and self._generated):
            return None
        if step == 0:
            for done in range(settings.warmup_rounds):
                self._on_progress(f"warming up, round {done + 1} of {settings.warmup_rounds}", 0.0)
                self._synthesizer.make()
            return self._joined(data, settings.first_rounds, None)
        opponent = opponent_of(student, self._spec, settings.synthesis, settings.zoo.device)
        return self._joined(data, settings.rounds, opponent)

    def to_dict(self) -> dict[str, Any]:
        return self._settings.to_dict()

    def tensors(self) -> dict[str, Tensor]:
        return self._synthesizer.tensors() | {"generated": torch.tensor(self._generated)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._synthesizer.load(tensors)
        self._generated = int(tensors["generated"])

    def _joined(self, data: ImageSet, rounds: int, opponent: Student | None) -> ImageSet:
        """The bank with the images of new rounds, without the oldest that do not fit."""
        batches = [batch for _ in range(rounds) for batch in self._synthesizer.make(opponent)]
        images = torch.cat([batch.images for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        # Training asks the teacher itself, and a zoo would take a while to be asked.
        classes = data.soft_labels.shape[1]
        certain = F.one_hot(labels, classes).float() if classes else torch.zeros(len(labels), 0)
        given = len(data) - self._generated
        new = min(self._settings.capacity, len(images))
        old = min(self._settings.capacity - new, self._generated)
        self._generated = old + new

        def join(before: Tensor, added: Tensor) -> Tensor:
            parts = (before[:given], before[len(before) - old :], added[len(added) - new :])
            return torch.cat(parts)

        return ImageSet(
            join(data.images, images),
            join(data.labels, labels),
            join(data.soft_labels, certain),
            data.manifest,
        )
