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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mixmix.models.zoo import Zoo
from mixmix.runtime import seeding
from mixmix.runtime.storage import tensors_below
from mixmix.synthesis.amortized_settings import AmortizedSettings
from mixmix.synthesis.drawing import is_mixed
from mixmix.synthesis.generator import ImageGenerator
from mixmix.synthesis.latents import LatentBank
from mixmix.synthesis.objective import check_terms, finite_values, losses_of, total_loss
from mixmix.synthesis.terms.observation import Student
from mixmix.synthesis.workers import run_side_by_side

__all__ = ["AmortizedSynthesizer", "ImageBatch"]

_BETAS = (0.5, 0.999)


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
        size = settings.latent_size
        self._latents = LatentBank(zoo, settings.num_latents, size, seed=seed)
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
            student: a network under training, for terms that ask for one. Several threads call it
                at a time.

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
            "latents": self._latents.values.clone(),
            "rounds_done": torch.tensor(self.rounds_done),
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what ``tensors()`` gave."""
        self.rounds_done = int(tensors["rounds_done"])
        self._latents.values.copy_(tensors["latents"])
        self._generator.load_state_dict(tensors_below("generator.", tensors))

    def _make_batch(
        self, index: int, chosen: Tensor, student: Student | None, check: Callable[[], None]
    ) -> _Made:
        settings, objective, zoo = self._settings, self._settings.objective, self._zoo
        draws = seeding.generator(self._seed, "batch", self.rounds_done, index)
        latents = self._latents.near(chosen, draws)
        labels = self._latents.labels[chosen].to(zoo.device)
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
            optimizer.zero_grad()
            total_loss(losses, images).backward()
            optimizer.step()
        values = finite_values(losses, at=f"in round {self.rounds_done}", lower="generator_rate")
        with torch.no_grad():
            images = (generator(latents) * 255).round() / 255
        batch = ImageBatch(images.contiguous().cpu(), labels.cpu(), values)
        return _Made(batch, generator, latents.detach())

    @torch.no_grad()
    def _learn_from(self, made: list[_Made], parts: tuple[Tensor, ...]) -> None:
        """Go a part of the way to what the batches have made of it."""
        rate = self._settings.meta_rate
        for each, chosen in zip(made, parts, strict=True):
            self._latents.move(chosen, each.latents, rate)
        states = [each.generator.state_dict() for each in made]
        for name, value in self._generator.state_dict().items():
            others = torch.stack([state[name] for state in states])
            if value.is_floating_point():
                value.lerp_(others.mean(0), rate)
            else:
                value.copy_(others[0])
