"""Amortized synthesis: batches share a generator, so that each takes about ten steps.

After FastDFKD (Fang et al. 2022): for every batch, a copy of the generator and the latents of the
batch are optimized for a few steps. Then the generator is moved toward its copies (Reptile, Nichol
et al. 2018), so that the next batch starts closer to its optimum. The objective is that of pixel
optimization: statistics and labels of a zoo, and mixed images.

To prevent collapse to one image per class, each image starts from one of many stored latents, which
belong to a class and are optimized like the generator, and similar images of a class are penalized.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mixmix.data.flips import warn_of_names
from mixmix.models.zoo import Zoo
from mixmix.runtime import seeding
from mixmix.runtime.storage import tensors_below
from mixmix.synthesis.amortized_settings import AmortizedSettings
from mixmix.synthesis.generator import ImageGenerator, LatentBank
from mixmix.synthesis.objective import (
    check_terms,
    finite_values,
    is_mixed,
    losses_of,
    total_loss,
)
from mixmix.synthesis.workers import run_side_by_side

__all__ = ["AmortizedSynthesizer", "ImageBatch"]

_BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class ImageBatch:
    """Images (N, C, H, W) in [0, 1], multiples of 1/255; labels (N,); final losses by name."""

    images: Tensor
    labels: Tensor
    losses: Mapping[str, float]


class _Result(NamedTuple):
    """A batch, its optimized copy of the generator, and its optimized latents (N, D)."""

    batch: ImageBatch
    generator: nn.Module
    latents: Tensor


class AmortizedSynthesizer:
    """Makes rounds of batches; each round starts from the generator of the previous one.

    Args:
        zoo: the networks to invert.
        settings: of the generator and its losses.
        seed: the same seed gives the same bits with any number of threads.

    Raises:
        InputError: if no term of the loss applies to the zoo.
    """

    def __init__(self, zoo: Zoo, settings: AmortizedSettings, *, seed: int) -> None:
        check_terms(zoo, settings)
        if settings.flip:
            warn_of_names(model.spec for model in zoo)
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
            teacher.prepare(precision=settings.precision)

    def make(self) -> list[ImageBatch]:
        """Make the batches of the next round.

        Raises:
            InputError: if a loss becomes infinite or NaN.
        """
        settings = self._settings
        order = torch.randperm(
            len(self._latents), generator=seeding.generator(self._seed, "round", self.rounds_done)
        )
        batches = order[: settings.images_per_round].split(settings.batch_size)
        threads = torch.get_num_threads()
        at_once = min(len(batches), threads) if self._zoo.device.type == "cpu" else 1
        results = run_side_by_side(
            [partial(self._make_batch, *each) for each in enumerate(batches)],
            at_once=at_once,
            threads_per_job=max(1, threads // at_once),
        )
        self._update(results, batches)
        self.rounds_done += 1
        return [result.batch for result in results]

    def tensors(self) -> dict[str, Tensor]:
        """The state between rounds."""
        state = {f"generator.{k}": v.clone() for k, v in self._generator.state_dict().items()}
        return state | {
            "latents": self._latents.values.clone(),
            "rounds_done": torch.tensor(self.rounds_done),
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state from ``tensors()``."""
        self.rounds_done = int(tensors["rounds_done"])
        self._latents.values.copy_(tensors["latents"])
        self._generator.load_state_dict(tensors_below("generator.", tensors))

    def _make_batch(self, index: int, chosen: Tensor, check: Callable[[], None]) -> _Result:
        settings, zoo = self._settings, self._zoo
        draws = seeding.generator(self._seed, "batch", self.rounds_done, index)
        latents = self._latents.near(chosen, draws)
        labels = self._latents.labels[chosen].to(zoo.device)
        generator = copy.deepcopy(self._generator)
        optimizer = torch.optim.Adam(
            [
                {"params": [latents], "lr": settings.latent_rate},
                {"params": list(generator.parameters()), "lr": settings.generator_rate},
            ],
            betas=_BETAS,
        )
        losses: dict[str, Tensor] = {}
        for step in range(settings.steps):
            check()
            images = generator(latents)
            losses = losses_of(
                zoo,
                images,
                labels,
                settings,
                generator=draws,
                mixing=is_mixed(step, settings.mixing_fraction),
            )
            optimizer.zero_grad()
            total_loss(losses, images).backward()
            optimizer.step()
        values = finite_values(losses, at=f"in round {self.rounds_done}", lower="generator_rate")
        with torch.no_grad():
            images = (generator(latents) * 255).round() / 255
        batch = ImageBatch(images.contiguous().cpu(), labels.cpu(), values)
        return _Result(batch, generator, latents.detach())

    @torch.no_grad()
    def _update(self, results: list[_Result], batches: tuple[Tensor, ...]) -> None:
        """Move the latents and the generator toward the results of a round."""
        rate = self._settings.meta_rate
        for result, chosen in zip(results, batches, strict=True):
            self._latents.move(chosen, result.latents, rate)
        states = [result.generator.state_dict() for result in results]
        for name, value in self._generator.state_dict().items():
            others = torch.stack([state[name] for state in states])
            if value.is_floating_point():
                value.lerp_(others.mean(0), rate)
            else:
                value.copy_(others[0])
