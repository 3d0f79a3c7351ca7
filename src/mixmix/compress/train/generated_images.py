"""Generate images during training and collect them in a bank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix._settings import identify
from mixmix.compress.method import Progress
from mixmix.compress.train.image_source import ImageSource, MoreImages
from mixmix.data.image_set import ImageSet
from mixmix.data.labels import index_in, map_labels
from mixmix.models.member import label_space
from mixmix.models.spec import ModelSpec
from mixmix.models.zoo import Zoo
from mixmix.runtime import seeding
from mixmix.synthesis.amortized import AmortizedSynthesizer
from mixmix.synthesis.amortized_settings import AmortizedSettings

__all__ = ["GeneratedImages"]


@dataclass(frozen=True)
class GeneratedImages(MoreImages):
    """Generate images during training (see ``generate``), and collect them in a bank.

    Before the first step, the generator is warmed up, and ``first_rounds`` rounds of images are
    generated; then ``rounds`` more every ``every_steps`` steps. The initial images of training stay
    in the bank; the oldest generated images are dropped.

    Attributes:
        zoo: networks that images are generated from.
        synthesis: settings of the generator.
        warmup_rounds: rounds whose images are discarded.
        first_rounds: rounds before the first step.
        every_steps: training steps between rounds.
        rounds: rounds every ``every_steps`` steps.
        capacity: largest number of generated images in the bank.

    Raises:
        InputError: if a number is out of range.

    Examples:
        >>> mixmix.GeneratedImages(mixmix.Zoo.load(["bundled:vgg"])).needs_images
        False
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
        self._require_int("warmup_rounds", least=0)
        self._require_int("first_rounds", "every_steps", "rounds", least=1)
        self._require_int("capacity", least=self.synthesis.images_per_round)

    def source(
        self,
        teacher: nn.Module,
        spec: ModelSpec,
        *,
        seed: int,
        on_progress: Progress = lambda what, fraction: None,
    ) -> ImageSource:
        """Build the source that ``train_`` calls; it reports progress while it warms up.

        Raises:
            InputError: if the teacher lacks classes of the zoo.
        """
        synthesis = self.synthesis if spec.may_flip else replace(self.synthesis, flip=False)
        own, target = self.zoo.label_space, label_space(spec)
        indices = index_in(target, own) if own.num_classes and target.num_classes else None
        return _GeneratedImageSource(self, synthesis, indices, seed, on_progress)


class _GeneratedImageSource:
    def __init__(
        self,
        settings: GeneratedImages,
        synthesis: AmortizedSettings,
        indices: Tensor | None,
        seed: int,
        on_progress: Progress,
    ) -> None:
        self._settings, self._indices, self._on_progress = settings, indices, on_progress
        self.may_flip = settings.zoo.may_flip
        self._synthesizer = AmortizedSynthesizer(
            settings.zoo, synthesis, seed=seeding.child_seed(seed, "generated images")
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
            return self._extended(data, settings.first_rounds)
        return self._extended(data, settings.rounds)

    def to_dict(self) -> dict[str, Any]:
        settings: dict[str, Any] = identify(self._settings)
        return settings

    def tensors(self) -> dict[str, Tensor]:
        return self._synthesizer.tensors() | {"generated": torch.tensor(self._generated)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._synthesizer.load(tensors)
        self._generated = int(tensors["generated"])

    def _extended(self, data: ImageSet, rounds: int) -> ImageSet:
        """Add the images of new rounds to the bank, and drop the oldest beyond its capacity."""
        batches = [batch for _ in range(rounds) for batch in self._synthesizer.make()]
        images = torch.cat([batch.images for batch in batches])
        labels = map_labels(torch.cat([batch.labels for batch in batches]), self._indices)
        # Training does not use soft labels, so that the zoo is not evaluated for them.
        classes = data.soft_labels.shape[1]
        one_hot = F.one_hot(labels, classes).float() if classes else torch.zeros(len(labels), 0)
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
            join(data.soft_labels, one_hot),
            data.manifest,
        )
