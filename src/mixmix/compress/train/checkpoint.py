"""Checkpoints of training: an interrupted run resumes with bitwise identical results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixmix.compress.train.image_source import ImageSource
from mixmix.compress.train.state import TrainingState
from mixmix.data.image_set import ImageSet
from mixmix.errors import DataError
from mixmix.graph.costs import count_bytes
from mixmix.models.spec import ModelSpec
from mixmix.runtime import distributed
from mixmix.runtime.identity import identity_of
from mixmix.runtime.run_folder import check_file_of_run, claim_folder
from mixmix.runtime.storage import check_writable, read_tensors, tensors_below, write_tensors

__all__ = ["Checkpoint", "claim_training", "read_checkpoint"]

_NAME = "checkpoint.safetensors"


@contextmanager
def claim_training(
    path: Path,
    run: Mapping[str, Any],
    student: nn.Module,
    teacher: nn.Module,
    data: ImageSet,
    spec: ModelSpec,
) -> Iterator[str]:
    """Context in which a folder belongs to a run, which a file describes; yields its identifier.

    Args:
        path: of the file.
        run: settings and seed, in plain JSON types.
        student: the student before training.
        teacher: the teacher.
        data: the initial images.
        spec: of the images.

    Raises:
        InputError: if the folder belongs to another run, or another process works in it.
        DataError: if it contains a checkpoint of another run, or a damaged one.
    """
    wanted = {
        **run,
        "spec": spec.identity(),
        "student": identity_of(student),
        "teacher": identity_of(teacher),
        "images": data.sha256,
    }
    with ExitStack() as resources:

        def claim() -> str:
            identifier = resources.enter_context(claim_folder(path, wanted))
            read_checkpoint(path.parent, identifier)
            return identifier

        yield distributed.from_main(claim)


def read_checkpoint(folder: Path, run: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and metadata of the checkpoint of a run; None if there is none.

    Raises:
        DataError: if it is damaged, or of another run.
    """
    path = folder / _NAME
    if not path.exists():
        return None
    try:
        tensors, metadata = read_tensors(path)
    except DataError as error:
        raise DataError(f"{error}; remove it to start from the beginning") from error
    check_file_of_run(path, metadata, run)
    return tensors, metadata


class Checkpoint:
    """A folder with the state of a training run, which ``claim_training`` has claimed.

    ``checkpoint.safetensors`` is replaced atomically.

    Args:
        folder: of the run.
        run: its identifier.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._folder, self._run = folder, run
        self._images, self._older = "", ""
        self._unsaved: tuple[ImageSet, int] | None = None

    def restore(self, state: TrainingState, source: ImageSource) -> tuple[ImageSet, int] | None:
        """Restore the last checkpoint, if there is one.

        Returns:
            The current images and the step they were introduced at, or None for the initial ones.

        Raises:
            DataError: if its files are damaged, or of another run.
        """
        exists = distributed.from_main((self._folder / _NAME).exists)
        found = read_checkpoint(self._folder, self._run) if exists else None
        if found is None:
            if distributed.is_main():
                self._check_space(state)
            return None
        tensors, metadata = found
        state.load(tensors, int(metadata["steps_done"]))
        source.load(tensors_below("source.", tensors))
        self._images, self._older = metadata["images"], metadata["older_images"]
        self._remove_older()
        if not self._images:
            return None
        kept, about = read_tensors(self._folder / self._images)
        check_file_of_run(self._folder / self._images, about, self._run)
        images = kept["images"]
        if images.dtype == torch.uint8:
            images = images.float() / 255
        data = ImageSet(images, kept["labels"], kept["soft_labels"], {})
        return data, int(about["step"])

    def save(self, state: TrainingState, source: ImageSource) -> None:
        """Write a checkpoint, with the images if they have been replaced."""
        if not distributed.is_main():
            return
        if self._unsaved is not None:
            (data, step), self._unsaved = self._unsaved, None
            self._older, self._images = self._images, f"images-{step:06d}.safetensors"
            content = {"images": _compact(data.images), "labels": data.labels}
            content["soft_labels"] = data.soft_labels
            about = {"step": str(step), "run": self._run}
            write_tensors(self._folder / self._images, content, about)
        metadata = {
            "run": self._run,
            "steps_done": str(state.steps_done),
            "images": self._images,
            "older_images": self._older,
        }
        of_source = {f"source.{name}": tensor for name, tensor in source.tensors().items()}
        write_tensors(self._folder / _NAME, state.tensors() | of_source, metadata)
        self._remove_older()

    def replace_images(self, data: ImageSet, step: int) -> None:
        """Store these images, introduced at a step, with the next checkpoint."""
        self._unsaved = (data, step)

    def _remove_older(self) -> None:
        """Remove the images of the checkpoint before this one, which does not need them."""
        if self._older and self._older != self._images and distributed.is_main():
            (self._folder / self._older).unlink(missing_ok=True)
        self._older = ""

    def _check_space(self, state: TrainingState) -> None:
        """Weights, their mean, two moments; while a checkpoint is replaced, there are two."""
        check_writable(self._folder / _NAME, 2 * 4 * count_bytes(state.student))


def _compact(images: Tensor) -> Tensor:
    """Images as bytes, if that is lossless."""
    pixels = (images * 255).round()
    return pixels.to(torch.uint8) if torch.equal(pixels / 255, images) else images
