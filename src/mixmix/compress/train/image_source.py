"""Where a student's images come from while it is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from mixmix._settings import Settings
from mixmix.compress.method import Progress
from mixmix.data.image_set import ImageSet
from mixmix.models.spec import ModelSpec

__all__ = ["ImageSource", "MoreImages", "SameImages", "source_of"]


class ImageSource(Protocol):
    """Gives other images to train on, now and then."""

    def images_for(self, step: int, student: nn.Module, data: ImageSet) -> ImageSet | None:
        """Called before every step with the student as it is and the images trained on so far.

        Returns:
            Those to go on with, of the same size, or None.
        """
        ...

    def to_dict(self) -> dict[str, Any]:
        """What tells it from others, in plain JSON types."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What else it needs to go on, kept in checkpoints."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what ``tensors()`` gave."""
        ...


class SameImages:
    """Leaves it at the images that training began with."""

    def images_for(self, step: int, student: nn.Module, data: ImageSet) -> ImageSet | None:
        return None

    def to_dict(self) -> dict[str, Any]:
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        pass


class MoreImages(Settings, ABC):
    """Settings of how images are made while a student is trained.

    Attributes:
        needs_images: whether training has to begin with images, or these come before its first
            step.
    """

    family: ClassVar[str] = "more_images"
    modules: ClassVar[tuple[str, ...]] = (
        "mixmix.compress.train.fresh_images",
        "mixmix.compress.train.generated_images",
    )
    needs_images: ClassVar[bool] = True

    @abstractmethod
    def source(
        self, teacher: nn.Module, spec: ModelSpec, *, seed: int, on_progress: Progress
    ) -> ImageSource:
        """What ``train_`` asks for images."""


def source_of(
    fresh: MoreImages | None,
    teacher: nn.Module,
    spec: ModelSpec,
    *,
    seed: int,
    on_progress: Progress,
) -> ImageSource:
    """Where images come from; without settings, training stays with those that it begins with."""
    if fresh is None:
        return SameImages()
    return fresh.source(teacher, spec, seed=seed, on_progress=on_progress)
