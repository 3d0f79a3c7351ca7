"""Synthesize images during training, and keep those on which student and teacher differ most."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mixmix.compress.method import Progress
from mixmix.compress.train.image_source import ImageSource, MoreImages, SameImages
from mixmix.compress.train.loss import kl_loss
from mixmix.compress.train.train import opponent_of, outputs_of
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.models.model import normalize
from mixmix.models.spec import ModelSpec
from mixmix.models.zoo import Zoo
from mixmix.runtime import seeding
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.synthesize import synthesize

__all__ = ["FreshImages", "divergence"]

_INFERENCE_BATCH = 128


@dataclass(frozen=True)
class FreshImages(MoreImages):
    """Synthesize images during training.

    Every ``every_steps`` steps, ``synthesis.num_images`` images are made. Of these and the current
    images, those with the largest KL divergence between teacher and student are kept, as many as
    there were before.

    >>> import mixmix
    >>> mixmix.FreshImages(mixmix.Zoo.load(["bundled:vgg"]), every_steps=100).needs_images
    True

    Attributes:
        zoo: networks that images are synthesized from.
        synthesis: settings of the synthesis. With the term ``Adversarial``, images are made for
            the current student.
        every_steps: training steps between syntheses.

    Raises:
        InputError: if ``every_steps`` is below 1.
    """

    kind: ClassVar[str] = "synthesized"

    zoo: Zoo = field(repr=False)
    synthesis: SynthesisSettings = field(default_factory=SynthesisSettings)
    every_steps: int = 500

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise InputError(f"every_steps must be at least 1, got {self.every_steps}")

    def source(
        self,
        teacher: nn.Module,
        spec: ModelSpec,
        *,
        seed: int,
        on_progress: Progress = lambda what, fraction: None,
    ) -> ImageSource:
        """Build the source that ``train_`` calls."""
        return _FreshImageSource(self, teacher, spec, seed)


class _FreshImageSource(SameImages):
    """Without state: new images depend only on the step and the student."""

    def __init__(
        self, settings: FreshImages, teacher: nn.Module, spec: ModelSpec, seed: int
    ) -> None:
        self._settings, self._teacher, self._spec, self._seed = settings, teacher, spec, seed

    def to_dict(self) -> dict[str, Any]:
        return self._settings.to_dict()

    def images_for(self, step: int, student: nn.Module, data: ImageSet) -> ImageSet | None:
        settings = self._settings
        if step == 0 or step % settings.every_steps:
            return None
        seed = seeding.child_seed(self._seed, "fresh images", step)
        opponent = opponent_of(student, self._spec, settings.synthesis, settings.zoo.device)
        made = synthesize(settings.zoo, settings.synthesis, seed=seed, student=opponent)
        both = _concatenated(data, made)
        # A copy in eval mode, so that BatchNorm does not update its statistics.
        student_copy = copy.deepcopy(student).eval()
        order = divergence(student_copy, self._teacher, both.images, self._spec).argsort(
            descending=True
        )
        return _rows(both, order[: len(data)].sort().values)


@torch.no_grad()
def divergence(student: nn.Module, teacher: nn.Module, images: Tensor, spec: ModelSpec) -> Tensor:
    """KL divergence (N,) between teacher and student on images (N, C, H, W) in [0, 1]."""
    device = next(student.parameters()).device
    found = []
    for batch in images.split(_INFERENCE_BATCH):
        inputs = normalize(batch.to(device), spec)
        pair = (outputs_of(network, inputs)[0] for network in (student, teacher))
        found += [
            kl_loss(one[None], other[None], temperature=1.0)
            for one, other in zip(*pair, strict=True)
        ]
    return torch.stack(found).cpu()


def _concatenated(one: ImageSet, other: ImageSet) -> ImageSet:
    return ImageSet(
        torch.cat([one.images, other.images]),
        torch.cat([one.labels, other.labels]),
        torch.cat([one.soft_labels, other.soft_labels]),
        one.manifest,
    )


def _rows(data: ImageSet, index: Tensor) -> ImageSet:
    return ImageSet(data.images[index], data.labels[index], data.soft_labels[index], data.manifest)
