"""Amortized synthesis: batches share a generator, so that each takes a few steps, not a hundred.

After FastDFKD (Fang et al. 2022): for every batch, a copy of the generator and the latents of the
batch are optimized for some steps; then the generator moves toward what its copies have become
(Reptile, Nichol et al. 2018), so that the next batch begins nearer to its end. What they are
optimized for is that of pixels: statistics and labels of a zoo, mixed images, and, if asked for,
disagreement with a student.

A generator alone draws one picture of every class before long. So each image begins at one of many
kept latents, which have a class each and learn like the generator does, and images of one class are
pushed apart.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from mixmix._settings import Settings
from mixmix.errors import InputError
from mixmix.models.zoo import Zoo
from mixmix.runtime import seeding
from mixmix.runtime.storage import tensors_below
from mixmix.synthesis.generator import ImageGenerator
from mixmix.synthesis.initial import balanced_labels
from mixmix.synthesis.losses import Student, check_terms, is_mixed, losses_of
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.terms.terms import similarity_loss
from mixmix.synthesis.workers import run_side_by_side

__all__ = ["AmortizedSettings", "AmortizedSynthesizer", "ImageBatch"]

# Of the variance of a latent, what is common to its class at first; and the noise around it.
_CLASS_SHARE = 0.5
_NOISE = 0.3
_BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class AmortizedSettings(Settings):
    """How batches are drawn from a generator that they share.

    Attributes:
        objective: the terms of the loss, ``batch_size`` and mixing; its ``iterations`` are the
            steps of each batch, too few for statistics to weigh as much as with pixels.
            ``num_images``, ``initial`` and ``learning_rate`` are for pixels.
        batches_at_once: batches of a round, which begin from the same generator; on a CPU they are
            made side by side.
        num_latents: latents that are kept, and begun from; at least the images of a round.
        latent_size: numbers in each.
        width: channels of the generator's last stage.
        latent_rate: learning rate of Adam for latents.
        generator_rate: of Adam for the weights of a batch's generator.
        meta_rate: share of the way that the generator and its latents go to what a round made of
            them, in (0, 1].
        diversity_weight: of the likeness of images of the same class in a batch.
    """

    objective: SynthesisSettings = field(
        default_factory=lambda: SynthesisSettings(
            iterations=10, bn_weight=0.5, bn_distance="relative"
        )
    )
    batches_at_once: int = 2
    num_latents: int = 1280
    latent_size: int = 128
    width: int = 16
    latent_rate: float = 5e-2
    generator_rate: float = 3e-3
    meta_rate: float = 0.5
    diversity_weight: float = 10.0

    def __post_init__(self) -> None:
        for name in ("batches_at_once", "num_latents", "latent_size", "width"):
            value = getattr(self, name)
            self._require(isinstance(value, int) and value >= 1, name, "a whole number >= 1")
        for name in ("latent_rate", "generator_rate"):
            self._require(0 < getattr(self, name) < math.inf, name, "a finite number > 0")
        self._require(0 < self.meta_rate <= 1, "meta_rate", "in (0, 1]")
        weight = self.diversity_weight
        self._require(0 <= weight < math.inf, "diversity_weight", "a finite number >= 0")
        if self.objective.iterations < 1:
            raise InputError("objective.iterations must be >= 1: the steps of every batch")
        if self.num_latents < self.images_per_round:
            raise InputError(
                f"num_latents must be at least the images of a round ({self.images_per_round}), "
                f"got {self.num_latents}"
            )

    def _require(self, valid: bool, name: str, expected: str) -> None:
        if not valid:
            raise InputError(f"{name} must be {expected}, got {getattr(self, name)!r}")

    @property
    def images_per_round(self) -> int:
        return self.batches_at_once * self.objective.batch_size


@dataclass(frozen=True)
class ImageBatch:
    """Images (N, C, H, W) in [0, 1], multiples of 1/255; labels (N,); the last losses by name."""

    images: Tensor
    labels: Tensor
    losses: Mapping[str, float]


@dataclass(frozen=True)
class _Made:
    """A batch, and what became of the generator and of its latents (N, D)."""

    batch: ImageBatch
    generator: nn.Module
    latents: Tensor


class AmortizedSynthesizer:
    """Makes one round of batches after another, each from what the rounds before it have learned.

    Args:
        zoo: the networks to invert together.
        settings: of the generator and its losses.
        seed: of everything that is drawn: the same seed and students give the same bits, whatever
            the number of threads.

    Raises:
        InputError: if no term of the loss applies to the zoo.
    """

    def __init__(self, zoo: Zoo, settings: AmortizedSettings, *, seed: int) -> None:
        check_terms(zoo, settings.objective)
        self._zoo, self._settings, self._seed = zoo, settings, seed
        self.rounds_done = 0
        count, size = settings.num_latents, settings.latent_size
        self._labels = balanced_labels(count, zoo.num_classes)
        draws = seeding.generator(seed, "latents")
        of_class = torch.randn(max(1, zoo.num_classes), size, generator=draws)[self._labels]
        own = torch.randn(count, size, generator=draws)
        latents = _CLASS_SHARE**0.5 * of_class + (1 - _CLASS_SHARE) ** 0.5 * own
        self._latents = latents.to(zoo.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.child_seed(seed, "generator"))
            self._generator = ImageGenerator(
                zoo.input_shape, latent_size=size, width=settings.width
            ).to(zoo.device)
        for teacher in zoo:
            teacher.prepare(precision=settings.objective.precision)

    def make(self, student: Student | None = None) -> list[ImageBatch]:
        """The batches of the next round.

        Args:
            student: whose disagreement with the zoo ``adversarial_weight`` asks for. Several
                threads call it at a time.

        Raises:
            InputError: if a loss is no longer finite.
        """
        settings = self._settings
        order = torch.randperm(
            len(self._latents), generator=seeding.generator(self._seed, "round", self.rounds_done)
        )
        parts = order[: settings.images_per_round].split(settings.objective.batch_size)
        found: dict[int, _Made] = {}

        def job(index: int, check: Callable[[], None]) -> None:
            found[index] = self._make_batch(index, parts[index], student, check)

        threads = torch.get_num_threads()
        at_once = min(len(parts), threads) if self._zoo.device.type == "cpu" else 1
        run_side_by_side(
            [partial(job, index) for index in range(len(parts))],
            at_once=at_once,
            threads_per_job=max(1, threads // at_once),
        )
        made = [found[index] for index in range(len(parts))]
        self._learn_from(made, parts)
        self.rounds_done += 1
        return [each.batch for each in made]

    def tensors(self) -> dict[str, Tensor]:
        """All that the next rounds depend on."""
        state = {f"generator.{k}": v.clone() for k, v in self._generator.state_dict().items()}
        return state | {
            "latents": self._latents.clone(),
            "rounds_done": torch.tensor(self.rounds_done),
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what ``tensors()`` gave."""
        self.rounds_done = int(tensors["rounds_done"])
        self._latents.copy_(tensors["latents"])
        self._generator.load_state_dict(tensors_below("generator.", tensors))

    def _make_batch(
        self, index: int, chosen: Tensor, student: Student | None, check: Callable[[], None]
    ) -> _Made:
        settings, objective, zoo = self._settings, self._settings.objective, self._zoo
        draws = seeding.generator(self._seed, "batch", self.rounds_done, index)
        noise = torch.randn(len(chosen), settings.latent_size, generator=draws)
        labels = self._labels[chosen].to(zoo.device)
        latents = self._latents[chosen.to(zoo.device)] + _NOISE * noise.to(zoo.device)
        latents.requires_grad_(True)
        generator = copy.deepcopy(self._generator)
        weights = list(generator.parameters())
        optimizer = torch.optim.Adam(
            [
                {"params": [latents], "lr": settings.latent_rate},
                {"params": weights, "lr": settings.generator_rate},
            ],
            betas=_BETAS,
        )
        losses: dict[str, Tensor] = {}
        for iteration in range(objective.iterations):
            check()
            images = generator(latents)
            losses = losses_of(
                zoo,
                images,
                labels,
                objective,
                generator=draws,
                mixing=is_mixed(iteration, objective.mixing_share),
                student=student,
            )
            if settings.diversity_weight:
                losses["similarity"] = settings.diversity_weight * similarity_loss(images, labels)
            optimizer.zero_grad()
            # Rooted in the images, because the members drawn may have no term of their own.
            sum(losses.values(), start=images.sum() * 0).backward()
            optimizer.step()
        values = {name: loss.item() for name, loss in losses.items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise InputError(
                f"the loss is no longer finite in round {self.rounds_done} ({values}); lower "
                "generator_rate, or check the networks' normalization"
            )
        with torch.no_grad():
            images = (generator(latents) * 255).round() / 255
        batch = ImageBatch(images.contiguous().cpu(), labels.cpu(), values)
        return _Made(batch, generator, latents.detach())

    @torch.no_grad()
    def _learn_from(self, made: list[_Made], parts: tuple[Tensor, ...]) -> None:
        """Go a part of the way to what the batches have made of it."""
        rate = self._settings.meta_rate
        for each, chosen in zip(made, parts, strict=True):
            index = chosen.to(self._latents.device)
            self._latents[index] = self._latents[index].lerp(each.latents, rate)
        states = [each.generator.state_dict() for each in made]
        for name, value in self._generator.state_dict().items():
            others = torch.stack([state[name] for state in states])
            if value.is_floating_point():
                value.lerp_(others.mean(0), rate)
            else:
                value.copy_(others[0])
