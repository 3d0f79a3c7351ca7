"""Checkpoints of training: an interrupted run resumes with bitwise identical results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixmix.compress.train.image_source import ImageSource
from mixmix.compress.train.state import TrainingState
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.runtime import distributed
from mixmix.runtime.storage import (
    read_json,
    read_tensors,
    sha256_of_tensors,
    tensors_below,
    write_json,
    write_tensors,
)

__all__ = ["Checkpoint", "claim_folder"]


def claim_folder(
    path: Path,
    run: Mapping[str, Any],
    student: nn.Module,
    teacher: nn.Module,
    data: ImageSet,
) -> None:
    """Record in a file which run a folder belongs to, or check that it is the same run.

    The arguments are those of ``Checkpoint``, with the path of the file.

    Raises:
        InputError: if the file describes another run.
    """
    wanted = {
        **run,
        "student": sha256_of_tensors(student.state_dict()),
        "teacher": sha256_of_tensors(teacher.state_dict()),
        "images": data.sha256,
    }
    if not path.exists():
        write_json(path, wanted)
    found = read_json(path)
    other = [key for key in wanted if found.get(key) != wanted[key]]
    if other:
        raise InputError(
            f"{path.parent} contains a {path.stem} run with other {', '.join(other)}; choose "
            "another folder, or remove that one"
        )


class Checkpoint:
    """A folder with the state of a training run.

    ``training.json`` describes the run; ``checkpoint.safetensors`` is replaced atomically.

    Args:
        folder: created if it does not exist.
        run: settings and seed, in plain JSON types.
        student: the student before training.
        teacher: the teacher.
        data: the initial images.

    Raises:
        InputError: if the folder belongs to another run.
    """

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, Any],
        student: nn.Module,
        teacher: nn.Module,
        data: ImageSet,
    ) -> None:
        self._folder, self._path = folder, folder / "checkpoint.safetensors"
        self._images = ""
        self._unsaved: tuple[ImageSet, int] | None = None
        path = folder / "training.json"
        distributed.from_main(lambda: claim_folder(path, run, student, teacher, data))

    def restore(self, state: TrainingState, source: ImageSource) -> tuple[ImageSet, int] | None:
        """Restore the last checkpoint, if there is one.

        Returns:
            The current images and the step they were introduced at, or None for the initial ones.
        """
        if not distributed.from_main(self._path.exists):
            return None
        tensors, metadata = read_tensors(self._path)
        state.load(tensors, int(metadata["steps_done"]))
        source.load(tensors_below("source.", tensors))
        self._images = metadata["images"]
        if not self._images:
            return None
        kept, about = read_tensors(self._folder / self._images)
        images = kept["images"]
        if images.dtype == torch.uint8:
            images = images.float() / 255
        data = ImageSet(images, kept["labels"], kept["soft_labels"], {})
        return data, int(about["step"])

    def save(self, state: TrainingState, source: ImageSource) -> None:
        """Write a checkpoint, with the images if they have been replaced."""
        if not distributed.is_main():
            return
        older = None
        if self._unsaved is not None:
            older, (data, step) = self._images, self._unsaved
            self._images, self._unsaved = f"images-{step:06d}.safetensors", None
            content = {"images": _compact(data.images), "labels": data.labels}
            content["soft_labels"] = data.soft_labels
            write_tensors(self._folder / self._images, content, {"step": str(step)})
        metadata = {"steps_done": str(state.steps_done), "images": self._images}
        of_source = {f"source.{name}": tensor for name, tensor in source.tensors().items()}
        write_tensors(self._path, state.tensors() | of_source, metadata)
        if older and older != self._images:
            (self._folder / older).unlink(missing_ok=True)

    def replace_images(self, data: ImageSet, step: int) -> None:
        """Store these images, introduced at a step, with the next checkpoint."""
        self._unsaved = (data, step)


def _compact(images: Tensor) -> Tensor:
    """Images as bytes, if that is lossless."""
    pixels = (images * 255).round()
    return pixels.to(torch.uint8) if torch.equal(pixels / 255, images) else images
