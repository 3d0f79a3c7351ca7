"""Distillation on synthetic images: train a student to match its teacher.

Used by quantization-aware training, recovery after pruning, and training of smaller architectures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixmix._settings import identify
from mixmix.compress.method import Progress
from mixmix.compress.train.augmentation import augment, fitting
from mixmix.compress.train.checkpoint import Checkpoint, claim_training
from mixmix.compress.train.image_source import ImageSource, SameImages
from mixmix.compress.train.loss import bernoulli_kl_loss, feature_loss, kl_loss
from mixmix.compress.train.settings import TrainingSettings
from mixmix.compress.train.state import TrainingState
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.graph.pointwise import safe_gradients
from mixmix.models.model import normalize
from mixmix.models.spec import ModelSpec
from mixmix.runtime import distributed, seeding
from mixmix.runtime.allocator import keeping_freed_memory
from mixmix.runtime.memory_layout import in_faster_layout
from mixmix.runtime.rates import cosine_decay

__all__ = ["Outputs", "Step", "learning_rate_at", "outputs_of", "train_"]

# Logits (N, K) and features (N, ...).
Outputs = tuple[Tensor, tuple[Tensor, ...]]

# Number of steps whose mean loss and agreement are reported.
_RECENT = 20


@dataclass(frozen=True)
class Step:
    """A step of training.

    Attributes:
        number: number of the step, from 0.
        loss: loss on this process's images.
        agreement: percentage of these images with equal predicted classes of student and teacher.
    """

    number: int
    loss: float
    agreement: float


@keeping_freed_memory()
def train_(
    student: nn.Module,
    teacher: nn.Module,
    data: ImageSet,
    spec: ModelSpec,
    settings: TrainingSettings,
    *,
    seed: int,
    out: str | Path | None = None,
    rate_of: Callable[[str], float] = lambda name: 1.0,
    source: ImageSource | None = None,
    method: Any = None,
    on_checkpoint: Callable[[int], None] = lambda steps_done: None,
    on_progress: Progress = lambda what, fraction: None,
) -> list[Step]:
    """Train ``student`` in place to match the outputs of ``teacher`` on augmented images.

    Both take normalized images (N, C, H, W) and return logits (N, K), or logits and a tuple of
    features, which are compared pairwise. The student is trained in its current mode: with several
    processes, keep BatchNorm in eval mode. Under ``torchrun``, every process calls this function
    with the same arguments; they share the batches and end with the same weights.

    Args:
        student: its parameters that require gradients are trained.
        teacher: a network in eval mode on the same device; it is not changed.
        data: images in [0, 1].
        spec: normalization of the images.
        settings: optimizer, loss and augmentation.
        seed: seed of batches, augmentation and random layers.
        out: folder for checkpoints. An interrupted run resumes from the last one and ends with the
            same bits as an uninterrupted one; of a finished run, the weights are read.
        rate_of: learning rate of a parameter, by name, relative to that of the settings.
        source: replaces images before any step.
        method: settings of what trains, which a checkpoint must agree with.
        on_checkpoint: called with the number of finished steps at every checkpoint, also at that
            which a run resumes from, while the student has the weights it would end with.
        on_progress: called after every step with the recent loss and agreement.

    Returns:
        The steps that this call took.

    Raises:
        InputError: if the loss is not finite (the last checkpoint is kept), ``out`` belongs to
            another run, or no parameter requires gradients.
    """
    # First, since it broadcasts the weights of the main process.
    parallel = distributed.data_parallel(student)
    state = TrainingState(student, _optimizer(student, settings, rate_of), settings.ema_decay)
    source = source or SameImages()
    if not getattr(source, "may_flip", True):
        spec = replace(spec, flip=False)
    checkpoint, since = None, 0
    with ExitStack() as resources:
        resources.enter_context(distributed.stopping_together())
        if out is not None:
            folder = Path(out)
            run = {"settings": settings.to_dict(), "seed": seed, "source": source.to_dict()}
            run |= {} if method is None else {"method": identify(method)}
            claim = claim_training(folder / "training.json", run, student, teacher, data, spec)
            checkpoint = Checkpoint(folder, resources.enter_context(claim))
            data, since = checkpoint.restore(state, source) or (data, since)
            if state.steps_done:
                with state.finished():
                    on_checkpoint(state.steps_done)
        trainer = _Trainer(state, parallel, teacher, data, spec, settings, seed)
        draws = _draws(len(data), settings, seed, since=since, first=state.steps_done)
        steps: list[Step] = []
        resources.enter_context(torch.random.fork_rng())
        resources.enter_context(safe_gradients(student))
        for number in range(state.steps_done, settings.steps):
            # Random states depend on the number of the step alone, so that none has to be stored.
            torch.manual_seed(seeding.child_seed(seed, "layers", number, distributed.rank()))
            fresh = source.images_for(number, student, trainer.data)
            if fresh is not None:
                trainer.replace_images(fresh)
                draws = _draws(len(fresh), settings, seed, since=number, first=number)
                if checkpoint is not None:
                    checkpoint.replace_images(fresh, number)
                    if number == 0:
                        checkpoint.save(state, source)
            try:
                steps.append(trainer.step(number, *next(draws)))
            except FloatingPointError as error:
                raise InputError(
                    f"training diverged at step {number}: {error}; lower learning_rate "
                    f"({settings.learning_rate:g})"
                    + ("" if out is None else f". The last checkpoint stays in {out}")
                ) from error
            if checkpoint is not None and (
                state.steps_done % settings.checkpoint_steps == 0
                or state.steps_done == settings.steps
            ):
                checkpoint.save(state, source)
                with state.finished():
                    on_checkpoint(state.steps_done)
            on_progress(_description(steps[-_RECENT:]), state.steps_done / settings.steps)
    state.finish()
    return steps


def _draws(
    count: int, settings: TrainingSettings, seed: int, *, since: int, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's part of each batch, and of the partners that its images are mixed with.

    Batches start at step ``first``; the current ``count`` images were introduced at step ``since``.
    """
    start = (since,) if since else ()
    batches, partners = (
        distributed.global_batches(
            count,
            settings.batch_size,
            num_steps=settings.steps - since,
            seed=seeding.child_seed(seed, name, *start),
        )
        for name in ("batches", "partners")
    )
    return islice(zip(batches, partners, strict=True), first - since, None)


class _Trainer:
    """Takes training steps, which change ``state`` only."""

    def __init__(
        self,
        state: TrainingState,
        student: nn.Module,
        teacher: nn.Module,
        data: ImageSet,
        spec: ModelSpec,
        settings: TrainingSettings,
        seed: int,
    ) -> None:
        self._state, self._student, self._teacher = state, student, teacher
        self._spec, self._settings, self._seed = spec, settings, seed
        self._augmentation = fitting(settings.augmentation, spec)
        self._device = next(state.student.parameters()).device
        self._take(data)

    def replace_images(self, data: ImageSet) -> None:
        """Train on other images of the same size from now on."""
        if not len(data) or data.images.shape[1:] != self.data.images.shape[1:]:
            raise InputError(
                f"new images have shape {tuple(data.images.shape)}, the current ones "
                f"{tuple(self.data.images.shape)}; use images of the same size"
            )
        self._take(data)

    def _take(self, data: ImageSet) -> None:
        self.data, self._images = data, data.images.to(self._device)

    def step(self, number: int, chosen: Tensor, others: Tensor) -> Step:
        """Take a step on images with indices ``chosen``, mixed with ``others``.

        Raises:
            FloatingPointError: if the loss or its gradient is not finite; no weight is changed.
        """
        settings = self._settings
        images = augment(
            self._images[chosen],
            self._images[others],
            self._augmentation,
            generator=seeding.generator(self._seed, "augmentation", number),
        )
        inputs = in_faster_layout(normalize(images, self._spec))
        with torch.no_grad():
            wanted = outputs_of(self._teacher, inputs)
        found = outputs_of(self._student, inputs)
        loss = _loss(found, wanted, settings, self._spec)
        loss.backward()
        length = self._state.clip_gradients(settings.max_gradient_norm)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(length)):
            raise FloatingPointError(f"the loss is {value:.3g}, its gradient's norm {length:.3g}")
        self._state.step(learning_rate_at(number, settings))
        if self._spec.multi_label:
            same = (found[0] > 0) == (wanted[0] > 0)
        else:
            same = found[0].argmax(1) == wanted[0].argmax(1)
        return Step(number, value, 100 * same.float().mean().item())


def outputs_of(network: nn.Module, inputs: Tensor) -> Outputs:
    """Logits and features of a network; without features, those are empty."""
    outputs: Any = network(inputs)
    if isinstance(outputs, Tensor):
        return outputs, ()
    logits, features = outputs
    return logits, tuple(features)


def learning_rate_at(step: int, settings: TrainingSettings) -> float:
    """Learning rate of a step in [0, steps): linear warmup, then cosine decay to zero."""
    rising = settings.warmup * settings.steps
    if step < rising:
        return settings.learning_rate * (step + 1) / (rising + 1)
    return settings.learning_rate * cosine_decay((step - rising) / (settings.steps - rising))


def _loss(found: Outputs, wanted: Outputs, settings: TrainingSettings, spec: ModelSpec) -> Tensor:
    loss = found[0].new_zeros(())
    if settings.kl_weight:
        if spec.num_classes:
            divergence_of = bernoulli_kl_loss if spec.multi_label else kl_loss
            divergence = divergence_of(found[0], wanted[0], temperature=settings.temperature)
        else:  # the softmax of one output is constant
            divergence = feature_loss([found[0]], [wanted[0]])
        loss = loss + settings.kl_weight * divergence
    if settings.feature_weight and found[1]:
        loss = loss + settings.feature_weight * feature_loss(found[1], wanted[1])
    return loss


def _optimizer(
    student: nn.Module, settings: TrainingSettings, rate_of: Callable[[str], float]
) -> torch.optim.Optimizer:
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            by_rate.setdefault(rate_of(name), []).append(parameter)
    if not by_rate:
        raise InputError(
            "nothing to train: no parameter of the student requires gradients; call "
            "requires_grad_(True) on it"
        )
    groups: list[dict[str, Any]] = [{"params": p, "rate": rate} for rate, p in by_rate.items()]
    decay = settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=decay)
    return torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True, weight_decay=decay)


def _description(recent: list[Step]) -> str:
    loss = sum(step.loss for step in recent) / len(recent)
    agreement = sum(step.agreement for step in recent) / len(recent)
    return f"training, loss {loss:.3f}, agreement {agreement:.1f}%"
