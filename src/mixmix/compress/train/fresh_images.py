"""More images while a student is trained: those on which it does not agree with its teacher yet."""

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
    """Go on synthesizing during training.

    Every ``every_steps`` steps, ``synthesis.num_images`` images are made. Together with those that
    were trained on they are ranked by the KL divergence between teacher and student, and as many
    as there were before, those of the largest divergence, are trained on from then on.

    Attributes:
        zoo: what the images are made from.
        synthesis: how they are made, and how many at a time. With the term ``Adversarial``, they
            are made for the student as it is by then.
        every_steps: steps of training from one time to the next.
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
        """What ``train_`` asks for images."""
        return _FreshImageSource(self, teacher, spec, seed)


class _FreshImageSource(SameImages):
    """Nothing has to be kept: what is made follows from the step and the student."""

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
        both = _joined(data, made)
        # A copy, since in training mode a student would learn statistics by being looked at.
        judged = copy.deepcopy(student).eval()
        order = divergence(judged, self._teacher, both.images, self._spec).argsort(descending=True)
        return _chosen(both, order[: len(data)].sort().values)


@torch.no_grad()
def divergence(student: nn.Module, teacher: nn.Module, images: Tensor, spec: ModelSpec) -> Tensor:
    """The KL divergence (N,) between teacher and student, of images (N, C, H, W) in [0, 1]."""
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


def _joined(one: ImageSet, other: ImageSet) -> ImageSet:
    return ImageSet(
        torch.cat([one.images, other.images]),
        torch.cat([one.labels, other.labels]),
        torch.cat([one.soft_labels, other.soft_labels]),
        one.manifest,
    )


def _chosen(data: ImageSet, index: Tensor) -> ImageSet:
    return ImageSet(data.images[index], data.labels[index], data.soft_labels[index], data.manifest)
