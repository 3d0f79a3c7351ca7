"""Train one bundled network on CIFAR-10; README.md has the command.

Stops and resumes at any epoch (``--out`` holds the last checkpoint); a resumed run takes the same
path as an uninterrupted one, since every epoch draws from a generator seeded by its own number.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from harness.cifar10 import CIFAR10_CLASSES, load_cifar10
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.demo.architectures import build_architecture
from mixmix.demo.bundled import load_bundled
from mixmix.runtime.allocator import keep_freed_memory

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Cycle:
    """Some epochs at a learning rate that rises linearly to its peak and falls linearly to zero."""

    epochs: int
    peak_lr: float
    crop_padding: int = 2
    resolution: int = 32  # the student's images are shrunk to it
    kept_tokens: float = 1.0  # share of a transformer's tokens that a step sees


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters, the same for all images; each cycle starts where the one before ended.

    With a ``teacher``, a bundled network, the loss is the mean of cross-entropy and of the
    teacher's soft labels at temperature 2. ``muon`` takes Muon for the matrices and AdamW for the
    rest in place of SGD, and bfloat16 where autocast does.
    """

    cycles: tuple[Cycle, ...] = (Cycle(24, 0.25), Cycle(10, 0.1))
    batch_size: int = 250
    warmup_share: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    muon: bool = False
    teacher: str | None = None

    @property
    def epochs(self) -> int:
        return sum(cycle.epochs for cycle in self.cycles)

    def at(self, epoch: float) -> tuple[float, Cycle]:
        """Learning rate and cycle after so many epochs."""
        start = 0
        for cycle in self.cycles:
            share = (epoch - start) / cycle.epochs
            if share <= 1:
                break
            start += cycle.epochs
        rise, fall = share / self.warmup_share, (1 - share) / (1 - self.warmup_share)
        return cycle.peak_lr * min(rise, fall), cycle


RECIPES = {
    "resnet": Recipe(),
    "vgg": Recipe(cycles=(Cycle(24, 0.25), Cycle(10, 0.1), Cycle(13, 0.15, crop_padding=4))),
    "mobilenetv2": Recipe(cycles=(Cycle(22, 0.25), Cycle(10, 0.1)), label_smoothing=0.05),
    "vovnet": Recipe(cycles=(Cycle(24, 0.25, crop_padding=4), Cycle(10, 0.1, crop_padding=4))),
    "vit": Recipe(
        cycles=(
            Cycle(10, 3e-3, crop_padding=4, kept_tokens=0.5),
            Cycle(4, 1.5e-3, crop_padding=4),
            Cycle(6, 3e-3, crop_padding=4, kept_tokens=0.5),
            Cycle(4, 1.5e-3, crop_padding=4),
        ),
        warmup_share=0.4,
        weight_decay=0.05,
        muon=True,
        teacher="vgg",
    ),
    "convnext": Recipe(
        cycles=(
            Cycle(6, 3e-3, crop_padding=4, resolution=24),
            Cycle(5, 2e-3, crop_padding=4),
            Cycle(7, 3e-3, crop_padding=4),
        ),
        warmup_share=0.4,
        weight_decay=0.05,
        muon=True,
        teacher="vgg",
    ),
}


def augment(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Random horizontal flip and random translation by up to ``padding`` pixels (reflected)."""
    count, _, height, width = images.shape
    flip = torch.rand(count, generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    padded = F.pad(images, (padding,) * 4, mode="reflect")
    top = torch.randint(0, 2 * padding + 1, (count,), generator=generator)
    left = torch.randint(0, 2 * padding + 1, (count,), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    index = torch.arange(count)[:, None, None, None]
    channel = torch.arange(3)[None, :, None, None]
    return padded[index, channel, rows, columns]


def normalize(images: Tensor) -> Tensor:
    mean = torch.tensor(MEAN)[:, None, None]
    std = torch.tensor(STD)[:, None, None]
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    hits = sum(
        int((model(normalize(x.float() / 255)).argmax(1) == y).sum())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return hits / len(labels)


def build_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Optimizers that share the parameters; their learning rates are set at every step."""
    others = [p for p in model.parameters() if p.ndim == 1]
    if not recipe.muon:
        decayed = [p for p in model.parameters() if p.ndim > 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others}]
        return [torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=True)]
    matrices = [p for p in model.parameters() if p.ndim == 2]
    decayed = [p for p in model.parameters() if p.ndim > 2]
    muon = torch.optim.Muon(
        matrices, lr=0.0, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [muon, torch.optim.AdamW(groups, lr=0.0)]


@contextmanager
def token_dropout(model: nn.Module, share: float, generator: torch.Generator) -> Iterator[None]:
    """Let a transformer's blocks see a random ``share`` of its tokens (Liu et al. 2022)."""
    if share == 1:
        yield
        return

    def keep_some(module: nn.Module, inputs: object, tokens: Tensor) -> Tensor:
        count, length, width = tokens.shape
        order = torch.rand(count, length, generator=generator).argsort(1)
        kept = order[:, : round(share * length), None].expand(-1, -1, width)
        return tokens.gather(1, kept)

    handle = model.get_submodule("tokens").register_forward_hook(keep_some)
    try:
        yield
    finally:
        handle.remove()


def loss_of(
    model: nn.Module, teacher: nn.Module | None, x: Tensor, y: Tensor, size: int, recipe: Recipe
) -> Tensor:
    """Loss on images ``x`` (N, 3, 32, 32) in [0, 1], which the model sees at ``size`` pixels."""
    x = normalize(x)
    small = x
    if size != x.shape[2]:
        small = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.muon):
        logits = model(small).float()
        if teacher is None:
            return F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
        with torch.no_grad():
            soft = (teacher(x).float() / 2).softmax(1)
    distance = F.kl_div((logits / 2).log_softmax(1), soft, reduction="batchmean")
    return 0.5 * F.cross_entropy(logits, y) + 0.5 * 4 * distance


def train(name: str, data: Path, out: Path, seed: int, recipe: Recipe) -> None:
    out.mkdir(parents=True, exist_ok=True)
    checkpoint_path = out / f"{name}.checkpoint.pt"
    images, labels = load_cifar10(data, split="train")
    torch.manual_seed(seed)
    model = build_architecture(name).to(memory_format=torch.channels_last)
    optimizers = build_optimizers(model, recipe)
    teacher = load_bundled(recipe.teacher) if recipe.teacher else None
    if teacher is not None:
        teacher.to(memory_format=torch.channels_last)
    first_epoch = 0
    if checkpoint_path.exists():
        state = torch.load(checkpoint_path, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first_epoch = state["epoch"]
    batches = len(images) // recipe.batch_size
    for epoch in range(first_epoch, recipe.epochs):
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        order = torch.randperm(len(images), generator=generator)
        model.train()
        start, total_loss = time.perf_counter(), 0.0
        for index in range(batches):
            chosen = order[index * recipe.batch_size : (index + 1) * recipe.batch_size]
            learning_rate, cycle = recipe.at(epoch + (index + 1) / batches)
            x = augment(images[chosen].float() / 255, cycle.crop_padding, generator)
            with token_dropout(model, cycle.kept_tokens, generator):
                loss = loss_of(model, teacher, x, labels[chosen], cycle.resolution, recipe)
            model.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate
                optimizer.step()
            total_loss += loss.item()
        temporary = checkpoint_path.with_suffix(".tmp")
        torch.save(
            {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "epoch": epoch + 1,
            },
            temporary,
        )
        os.replace(temporary, checkpoint_path)
        seconds = time.perf_counter() - start
        print(
            f"{name} epoch {epoch + 1}/{recipe.epochs} loss {total_loss / batches:.4f} "
            f"{seconds:.0f} s",
            flush=True,
        )
    save(name, model, data, out, seed, recipe)


def save(name: str, model: nn.Module, data: Path, out: Path, seed: int, recipe: Recipe) -> None:
    """Write weights (filters in half precision) and metadata; the accuracy is of what is stored."""
    stored = {
        key: (value.half() if value.ndim > 1 else value).contiguous()
        for key, value in model.state_dict().items()
    }
    model.load_state_dict({key: value.float() for key, value in stored.items()})
    top1 = accuracy(model, *load_cifar10(data, split="test"))
    digest = hashlib.sha256()
    for key in sorted(stored):
        digest.update(key.encode() + stored[key].numpy().tobytes())
    metadata = {
        "architecture": name,
        "input_shape": json.dumps([3, 32, 32]),
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "label_set": "cifar10",
        "classes": json.dumps(CIFAR10_CLASSES),
        "top1": f"{100 * top1:.2f}",
        "num_test": "10000",
        "license": "Apache-2.0",
        "training_command": f"python training/train.py {name} --data CIFAR10 --seed {seed}",
        "torch_version": torch.__version__,
        "weights_sha256": digest.hexdigest(),
    }
    path = out / f"{name}.safetensors"
    save_file(stored, path, metadata=metadata)
    print(f"{path}: top-1 {100 * top1:.2f}% on 10,000 test images", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architecture", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 folder")
    parser.add_argument("--out", type=Path, default=Path("training/runs"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    train(
        arguments.architecture,
        arguments.data,
        arguments.out,
        arguments.seed,
        RECIPES[arguments.architecture],
    )


if __name__ == "__main__":
    sys.exit(main())
