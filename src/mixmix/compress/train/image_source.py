"""Sources of images during training."""

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
    """Replaces the images of a training run from time to time.

    One with an attribute ``may_flip`` that is False makes images that are not mirrored.
    """

    def images_for(self, step: int, student: nn.Module, data: ImageSet) -> ImageSet | None:
        """New images of the same size, or None to keep ``data``; called before every step."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Settings in plain JSON types, by which a checkpoint recognizes its run."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """State to store in checkpoints."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that ``tensors()`` returned."""
        ...


class SameImages:
    """Keeps the initial images."""

    def images_for(self, step: int, student: nn.Module, data: ImageSet) -> ImageSet | None:
        return None

    def to_dict(self) -> dict[str, Any]:
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        pass


class MoreImages(Settings, ABC):
    """Settings of a source that generates images during training.

    Attributes:
        needs_images: whether training needs initial images.
    """

    family: ClassVar[str] = "more_images"
    group: ClassVar[str] = "mixmix.more_images"
    modules: ClassVar[tuple[str, ...]] = ("mixmix.compress.train.generated_images",)
    needs_images: ClassVar[bool] = True

    @abstractmethod
    def source(
        self, teacher: nn.Module, spec: ModelSpec, *, seed: int, on_progress: Progress
    ) -> ImageSource:
        """Build the source that ``train_`` calls."""


def source_of(
    fresh: MoreImages | None,
    teacher: nn.Module,
    spec: ModelSpec,
    *,
    seed: int,
    on_progress: Progress,
) -> ImageSource:
    """The source of these settings; None keeps the initial images."""
    if fresh is None:
        return SameImages()
    return fresh.source(teacher, spec, seed=seed, on_progress=on_progress)
