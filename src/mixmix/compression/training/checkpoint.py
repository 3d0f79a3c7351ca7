"""Checkpoints of training: a run that was interrupted goes on and ends with the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mixmix import distributed
from mixmix.compression.training.state import TrainingState
from mixmix.errors import InputError
from mixmix.storage import read_json, read_tensors, sha256_of_tensors, write_json, write_tensors
from mixmix.synthesis.dataset import SyntheticDataset

__all__ = ["Checkpoint", "claim_folder"]


def claim_folder(
    path: Path,
    run: Mapping[str, Any],
    student: nn.Module,
    teacher: nn.Module,
    data: SyntheticDataset,
) -> None:
    """Say in a file what a folder's run is made of, unless it says so already.

    Args:
        path: of the file.
        run: settings and seed, in plain JSON types.
        student: as it is before the first step.
        teacher: what it learns from.
        data: the images before the first step.

    Raises:
        InputError: if the file tells of another run.
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
            f"{path.parent} holds a {path.stem} run with other {', '.join(other)}; choose "
            "another folder, or remove that one"
        )


class Checkpoint:
    """A folder that holds how a run is made, and how far it has come.

    ``training.json`` is written first and says what the run is; ``checkpoint.safetensors`` is
    replaced whole at every checkpoint.

    Args:
        folder: is made if need be.
        run: settings and seed, in plain JSON types.
        student: as it is before the first step.
        teacher: what it learns from.
        data: the images before the first step.

    Raises:
        InputError: if the folder holds another run.
    """

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, Any],
        student: nn.Module,
        teacher: nn.Module,
        data: SyntheticDataset,
    ) -> None:
        self._folder, self._path = folder, folder / "checkpoint.safetensors"
        self._images = ""
        path = folder / "training.json"
        distributed.from_main(lambda: claim_folder(path, run, student, teacher, data))

    def restore(self, state: TrainingState) -> SyntheticDataset | None:
        """Take up the last checkpoint, if there is one; returns the images it had got since."""
        if not distributed.from_main(self._path.exists):
            return None
        tensors, metadata = read_tensors(self._path)
        state.load(tensors, int(metadata["steps_done"]))
        self._images = metadata["images"]
        if not self._images:
            return None
        kept, _ = read_tensors(self._folder / self._images)
        return SyntheticDataset(kept["images"], kept["labels"], kept["soft_labels"], {})

    def save(self, state: TrainingState) -> None:
        """Replace the checkpoint."""
        if distributed.is_main():
            metadata = {"steps_done": str(state.steps_done), "images": self._images}
            write_tensors(self._path, state.tensors(), metadata)

    def keep_images(self, data: SyntheticDataset, step: int) -> None:
        """Keep the images that are trained on from a step on."""
        self._images = f"images-{step:06d}.safetensors"
        if distributed.is_main():
            # As they are, since a data set that is saved is rounded to 8 bits.
            content = {"images": data.images, "labels": data.labels}
            write_tensors(self._folder / self._images, content | {"soft_labels": data.soft_labels})
