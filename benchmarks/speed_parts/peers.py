"""Other methods with their published settings, as plain loops that can resume.

Each is reimplemented from its paper and public code. Images are optimized in the normalized space
of the network and not clipped, as in the originals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from harness.clocks import Cost, stopwatch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import ModelSpec
from mixmix.runtime.storage import read_tensors, write_tensors
from speed_parts.plain_loop import observed_copy

__all__ = ["PEERS", "DeepInversion", "Genie", "Peer", "ZeroQ", "generate"]

_CHECKPOINT_EVERY = 100
_EPSILON = 1e-6


class Peer(ABC):
    """One batch of images and all that its optimization needs.

    Attributes:
        batch_size: published number of images in a batch.
        iterations: published number of steps.
    """

    batch_size: int
    iterations: int

    def __init__(self, model: nn.Module, spec: ModelSpec, count: int) -> None:
        self.spec, self.count = spec, count
        self.model, self.hooks = observed_copy(model)
        self.optimizers: list[torch.optim.Optimizer] = []
        self.schedulers: list[Any] = []
        self.modules: list[nn.Module] = []
        self.leaves: list[Tensor] = []
        # The normalized images as they are now.
        self.images: Tensor
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Make what is optimized, and the optimizers."""

    @abstractmethod
    def step(self, iteration: int) -> None:
        """One iteration."""

    def state(self) -> dict[str, Any]:
        """All that changes, in tensors and plain types."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "modules": [module.state_dict() for module in self.modules],
            "leaves": [leaf.detach() for leaf in self.leaves],
            "images": self.images.detach(),
            "random": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name in ("optimizers", "schedulers", "modules"):
            for part, saved in zip(getattr(self, name), state[name], strict=True):
                part.load_state_dict(saved)
        with torch.no_grad():
            for leaf, saved in zip(self.leaves, state["leaves"], strict=True):
                leaf.copy_(saved)
        if not any(leaf is self.images for leaf in self.leaves):
            self.images = state["images"]
        torch.set_rng_state(state["random"])

    def _clear_gradients(self) -> None:
        self.model.zero_grad()
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def _start_from(self, images: Tensor, rate: float) -> None:
        self.images = images.requires_grad_(True)
        self.leaves = [self.images]
        self.optimizers = [torch.optim.Adam(self.leaves, lr=rate)]


class DeepInversion(Peer):
    """Yin et al. 2020, CIFAR-10: the better of the two published sets of weights."""

    batch_size, iterations = 256, 2000
    rate, bn_weight, tv_weight, jitter = 0.1, 10.0, 1e-3, 2

    def prepare(self) -> None:
        self._start_from(torch.randn(self.count, *self.spec.input_shape), self.rate)
        self.labels = torch.arange(self.count) % self.spec.num_classes

    def step(self, iteration: int) -> None:
        shifts = torch.randint(-self.jitter, self.jitter + 1, (2,)).tolist()
        seen = torch.roll(self.images, shifts, dims=(2, 3))
        self._clear_gradients()
        loss = F.cross_entropy(self.model(seen), self.labels)
        loss = loss + self.tv_weight * _norms_of_differences(seen)
        loss = loss + self.bn_weight * sum(hook.distance() for hook in self.hooks)
        loss.backward()
        self.optimizers[0].step()


class ZeroQ(Peer):
    """Cai et al. 2020: mean and deviation of every single image, no labels."""

    batch_size, iterations = 32, 500
    rate = 0.5

    def prepare(self) -> None:
        noise = torch.randint(255, (self.count, *self.spec.input_shape)).float()
        # The published start: close to gray.
        self._start_from((noise - 127.5) / 5418.75, self.rate)
        self.schedulers = [_on_plateau(self.optimizers[0])]

    def step(self, iteration: int) -> None:
        self._clear_gradients()
        self.model(self.images)
        loss = self._distance(self.images, torch.zeros(3), torch.ones(3))
        for hook in self.hooks:
            mean, var = hook.module.running_mean, hook.module.running_var
            loss = loss + self._distance(hook.inputs, mean, (var + _EPSILON).sqrt())
        loss.backward()
        self.optimizers[0].step()
        self.schedulers[0].step(loss.item())

    def _distance(self, features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        rows = features.flatten(2)
        found_std = (rows.var(2) + _EPSILON).sqrt()
        squares = (rows.mean(2) - mean).square().sum() + (found_std - std).square().sum()
        return squares / self.count


class Genie(Peer):
    """Jeon et al. 2023, the synthesis: latents and a generator per batch, swing convolution."""

    batch_size, iterations = 128, 4000
    latent_size, latent_rate, generator_rate = 256, 0.1, 0.01

    def prepare(self) -> None:
        _swing_strided_convolutions(self.model)
        self.generator = _Generator(self.latent_size, self.spec.input_shape)
        self.latents = torch.randn(self.count, self.latent_size, requires_grad=True)
        self.leaves, self.modules = [self.latents], [self.generator]
        of_latents = torch.optim.Adam(self.leaves, lr=self.latent_rate)
        of_generator = torch.optim.Adam(self.generator.parameters(), lr=self.generator_rate)
        self.optimizers = [of_latents, of_generator]
        falling = torch.optim.lr_scheduler.ExponentialLR(of_generator, gamma=0.95)
        self.schedulers = [_on_plateau(of_latents), falling]
        self.images = torch.zeros(self.count, *self.spec.input_shape)

    def step(self, iteration: int) -> None:
        self._clear_gradients()
        self.images = self.generator(self.latents)
        self.model(self.images)
        std, mean = torch.std_mean(self.images, [2, 3])
        loss = (mean.square().sum() + (std - 1).square().sum()) / self.count
        for hook in self.hooks:
            std, mean = torch.std_mean(hook.inputs, [0, 2, 3])
            stored = (hook.module.running_var + _EPSILON).sqrt()
            loss = loss + (mean - hook.module.running_mean).square().mean()
            loss = loss + (std - stored).square().mean()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.schedulers[0].step(loss.item())
        if (iteration + 1) % 100 == 0:
            self.schedulers[1].step()


PEERS: dict[str, type[Peer]] = {"deepinversion": DeepInversion, "zeroq": ZeroQ, "genie": Genie}


def generate(
    name: str,
    model: nn.Module,
    spec: ModelSpec,
    folder: Path,
    *,
    num_images: int,
    iterations: int | None,
    seed: int,
) -> tuple[Tensor, Cost]:
    """Images (N, C, H, W) in pixel space, not clipped, and what all of them cost.

    Batches that are finished in ``folder`` are read; one that was interrupted goes on.

    Args:
        iterations: None for the published number.
    """
    kind = PEERS[name]
    images, total = [], Cost()
    for index, start in enumerate(range(0, num_images, kind.batch_size)):
        count = min(kind.batch_size, num_images - start)
        path = folder / f"batch-{index:03d}.safetensors"
        if not path.exists():
            torch.manual_seed(1000 * seed + index)
            batch = kind(model, spec, count)
            cost = _optimize(batch, iterations or kind.iterations, path.with_suffix(".state"))
            about = {"cpu": str(cost.cpu_seconds), "wall": str(cost.wall_seconds)}
            write_tensors(path, {"images": batch.images}, about)
            path.with_suffix(".state").unlink(missing_ok=True)
        tensors, about = read_tensors(path)
        images.append(tensors["images"])
        total.cpu_seconds += float(about["cpu"])
        total.wall_seconds += float(about["wall"])
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return torch.cat(images) * std + mean, total


def _optimize(batch: Peer, iterations: int, checkpoint: Path) -> Cost:
    """All steps; the cost includes what was done before an interruption."""
    done, total = 0, Cost()
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        batch.restore(saved["batch"])
        done, total = saved["done"], Cost(saved["cpu"], saved["wall"])
    while done < iterations:
        steps = min(_CHECKPOINT_EVERY, iterations - done)
        with stopwatch() as cost:
            for iteration in range(done, done + steps):
                batch.step(iteration)
        done += steps
        total.cpu_seconds += cost.cpu_seconds
        total.wall_seconds += cost.wall_seconds
        _save(checkpoint, batch, done, total)
        print(f"{type(batch).__name__} {checkpoint.stem}: {done}/{iterations}", flush=True)
    return total


def _save(path: Path, batch: Peer, done: int, cost: Cost) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"batch": batch.state(), "done": done}
    temporary = path.with_suffix(".new")
    torch.save(state | {"cpu": cost.cpu_seconds, "wall": cost.wall_seconds}, temporary)
    temporary.replace(path)


def _norms_of_differences(images: Tensor) -> Tensor:
    """Total variation as DeepInversion has it: L2 norms over the whole batch, four directions."""
    return (
        torch.norm(images[:, :, :, :-1] - images[:, :, :, 1:])
        + torch.norm(images[:, :, :-1, :] - images[:, :, 1:, :])
        + torch.norm(images[:, :, 1:, :-1] - images[:, :, :-1, 1:])
        + torch.norm(images[:, :, :-1, :-1] - images[:, :, 1:, 1:])
    )


def _on_plateau(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=1e-4, patience=100)


class _Generator(nn.Module):
    """Latents (N, L) to images (N, 3, H, W) of mean 0 and deviation 1: two upsamplings by two."""

    def __init__(self, latent_size: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.start = (128, shape[1] // 4, shape[2] // 4)
        self.project = nn.Linear(latent_size, self.start[0] * self.start[1] * self.start[2])
        self.draw = nn.Sequential(
            nn.BatchNorm2d(128),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(128, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(64, shape[0], 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(shape[0], affine=False),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.draw(self.project(latents).unflatten(1, self.start))


def _swing_strided_convolutions(model: nn.Module) -> None:
    """Let every strided convolution see its input moved by up to a pixel, anew in each step."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
            module.register_forward_pre_hook(_swing)


def _swing(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    features = inputs[0]
    top, left = torch.randint(3, (2,)).tolist()
    padded = F.pad(features, (1, 1, 1, 1), mode="reflect")
    return padded[:, :, top : top + features.shape[2], left : left + features.shape[3]]
