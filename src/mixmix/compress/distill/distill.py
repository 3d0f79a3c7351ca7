"""Data-free distillation: train a student from scratch on synthetic images."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mixmix.compress.distill.feature_taps import with_feature_taps
from mixmix.compress.method import Compressed, LayerRecord, Method, Progress
from mixmix.compress.train.augmentation import Augmentation
from mixmix.compress.train.image_source import MoreImages, source_of
from mixmix.compress.train.settings import TrainingSettings
from mixmix.compress.train.train import train_
from mixmix.data.image_set import ImageSet
from mixmix.errors import CaptureError, DataError, InputError, raise_if_out_of_memory
from mixmix.graph.batch_norm import standardize_batch_norms_
from mixmix.models.model import normalize
from mixmix.models.references import build_model, load_spec
from mixmix.models.spec import ModelSpec
from mixmix.runtime import distributed, seeding
from mixmix.runtime.storage import read_tensors, sha256_of_tensors, write_tensors

__all__ = ["Distill"]

# From single runs of 300 steps of a ResNet-20 under a ResNet-44, judged by images of the training
# split: with features 71%, without 25%. Agreement with the teacher after 2,000 steps: 90.6% with
# warped images, 90.3% if they are warped as much as in fine-tuning, 89.4% if not at all.
_TRAINING = TrainingSettings(
    steps=6000,
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.1,
    weight_decay=5e-4,
    feature_weight=100.0,
    augmentation=Augmentation(warp_prob=0.7, mixing=("shrink", "cutmix", "mixup")),
    ema_decay=0.998,
    max_gradient_norm=5.0,
)

# Prefix of the class name of a student that is a module, in ``to_dict``.
_MODULE = "module:"


@dataclass(frozen=True)
class Distill(Method):
    """Train another network to match the predictions of the model (Hinton et al. 2015).

    The student uses the model's normalization. Its BatchNorm statistics are computed from the
    training images.

    Attributes:
        student: ``bundled:NAME``, the path of a model spec, or a spec, whose architecture is built
            with new weights; or a module, which is trained from its current weights. Settings with
            a module can be written (as ``module:CLASS``), but not read.
        training: steps, rates, loss and augmentation. With a ``feature_weight``, the last feature
            maps at each resolution are compared too, through a trainable linear projection if the
            numbers of channels differ.
        fresh: generates more images during training; None trains only on the given images.
        checkpoints: folder for checkpoints, from which an interrupted run resumes. Its
            ``student.safetensors`` is the state dict of the current student.

    Raises:
        InputError: if the student is ``module:CLASS``, the text written for a module.

    Examples:
        >>> mixmix.Distill("bundled:mobilenetv2").setting
        'distilled into mobilenetv2'
    """

    kind: ClassVar[str] = "distill"

    student: nn.Module | str | Path | ModelSpec
    training: TrainingSettings = _TRAINING
    fresh: MoreImages | None = None
    checkpoints: str | Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.student, Path):
            object.__setattr__(self, "student", str(self.student))
        if isinstance(self.student, str) and self.student.startswith(_MODULE):
            raise InputError(
                f"the student was a module of class {self.student.removeprefix(_MODULE)}, which "
                "settings cannot store; pass the module itself to Distill"
            )

    @property
    def setting(self) -> str:
        return f"distilled into {self._student_name}"

    @property
    def needs_images(self) -> bool:
        return self.fresh is None or self.fresh.needs_images

    @property
    def _student_name(self) -> str:
        if isinstance(self.student, nn.Module):
            return type(self.student).__name__
        return load_spec(self.student).name

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``from_dict`` reads them back unless the student is a module."""
        content = super().to_dict()
        if isinstance(self.student, nn.Module):
            content["student"] = _MODULE + self._student_name
        return content

    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Train the student; its spec is that of the model with another name.

        Raises:
            CaptureError: if features are compared and a network cannot be captured as a graph.
            InputError: if the student does not fit the model, there are no images, training
                diverges, or the folder of checkpoints belongs to another run.
        """
        if distributed.world_size() > 1:
            raise InputError(
                "BatchNorm statistics of a student need a single process; start without torchrun"
            )
        if not len(data) and self.needs_images:
            raise InputError(
                "no images to train on; make some with synthesize, or pass "
                "fresh=GeneratedImages(zoo)"
            )
        device = next(model.module.parameters()).device
        student = self._new_student(seed).to(device).float()
        example = torch.full((2, *model.spec.input_shape), 0.5, device=device)
        example = normalize(example, model.spec)
        # Synchronized layers train on GPUs alone.
        standardize_batch_norms_(student.eval(), example, frozen=False)
        _check_outputs(student, model.module, example, self._student_name)
        teacher: nn.Module = model.original or model.module
        pair = (student, teacher.eval())
        if self.training.feature_weight:
            try:
                pair = with_feature_taps(*pair, example, seed=seed)
            except CaptureError as error:
                raise CaptureError(
                    f"features cannot be compared: {error}. To train without, use feature_weight=0"
                ) from error
        source = source_of(self.fresh, pair[1], model.spec, seed=seed, on_progress=on_progress)
        student.requires_grad_(True)
        train_(
            pair[0].train(),
            pair[1].eval(),
            data,
            model.spec,
            self.training,
            seed=seed,
            out=self.checkpoints,
            source=source,
            method=self,
            on_checkpoint=lambda steps_done: self._save_student(student, steps_done),
            on_progress=on_progress,
        )
        student.eval().requires_grad_(False)
        return Compressed(
            student,
            replace(
                model.spec,
                name=self._student_name,
                source="module",
                license="",
                sha256=sha256_of_tensors(student.state_dict()),
                top1=None,
            ),
            records=_records(student),
            applied=model.applied,
        ).with_method(self)

    def _save_student(self, student: nn.Module, steps_done: int) -> None:
        if self.checkpoints is not None:
            path = Path(self.checkpoints) / "student.safetensors"
            state = {name: tensor.detach().clone() for name, tensor in student.state_dict().items()}
            about = {"steps_done": str(steps_done)}
            if not _is_stored(path, state, about):
                write_tensors(path, state, about)

    def _new_student(self, seed: int) -> nn.Module:
        if isinstance(self.student, nn.Module):
            return copy.deepcopy(self.student)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.child_seed(seed, "student"))
            return build_model(load_spec(self.student))


def _is_stored(path: Path, state: dict[str, Tensor], about: dict[str, str]) -> bool:
    """Whether a file holds these tensors, so that a finished run need not be writable."""
    try:
        tensors, metadata = read_tensors(path)
    except DataError:
        return False
    return metadata == about and sha256_of_tensors(tensors) == sha256_of_tensors(state)


@torch.no_grad()
def _check_outputs(student: nn.Module, teacher: nn.Module, example: Tensor, name: str) -> None:
    wanted = tuple(teacher(example).shape)
    try:
        found = student(example)
    except Exception as error:  # whatever the caller's own module raises
        raise_if_out_of_memory(error)
        raise InputError(
            f"the student {name} cannot take images of {tuple(example.shape[1:])}, which the "
            f"teacher takes: {error}"
        ) from error
    if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"the student {name} returns {shape} for 2 images, the teacher {wanted}; build it "
            f"with num_classes={wanted[1]}"
        )


def _records(student: nn.Module) -> tuple[LayerRecord, ...]:
    return tuple(
        LayerRecord(
            name=name,
            kind=type(module).__name__,
            action="trained",
            num_parameters=sum(p.numel() for p in module.parameters(recurse=False)),
        )
        for name, module in student.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    )
