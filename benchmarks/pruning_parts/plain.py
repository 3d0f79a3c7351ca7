"""Pruning without mixmix: by magnitude, all at once, then training on the original logits.

Torch-Pruning chooses and removes channels, by magnitude, the same fraction of every layer. Training
is SGD with momentum and weight decay, a cosine schedule, on shifted and flipped images, with
BatchNorm in training mode. The learning rate was not tuned.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import Compressed, ImageSet, ModelSpec
from mixmix.compress.method import AppliedMethod, Progress
from mixmix.compress.train.loss import kl_loss
from mixmix.graph.costs import count_macs
from mixmix.graph.masks import hold_masks
from mixmix.models.model import normalize
from mixmix.runtime.seeding import generator

__all__ = ["PruneAndTrain"]

_SHIFT = 4


@dataclass(frozen=True)
class PruneAndTrain:
    """A method for ``compress``.

    Attributes:
        removed: share of the weights, or of the multiplications, that go.
        structured: remove channels; else set weights to zero.
        epochs: passes over the images.
        batch_size: images in a step.
        learning_rate: at its peak.
        temperature: of the distillation of logits (Hinton et al. 2015).
    """

    removed: float
    structured: bool
    epochs: int
    batch_size: int = 64
    learning_rate: float = 1e-2
    temperature: float = 4.0

    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        if self.structured:
            student, masks = _without_channels(model.module, model.spec, 1 - self.removed), {}
        else:
            student = copy.deepcopy(model.module)
            masks = _without_small_weights(student, self.removed)
        images = normalize(data.images, model.spec)
        self._train(student, model.module, images, masks, seed)
        settings: dict[str, Any] = {"method": "prune-and-train", "removed": self.removed}
        applied = (AppliedMethod(settings),)
        return Compressed(student, model.spec, applied=applied, masks=masks)

    def _train(
        self,
        student: nn.Module,
        teacher: nn.Module,
        images: Tensor,
        masks: Mapping[str, Tensor],
        seed: int,
    ) -> None:
        draws = generator(seed, "plain training")
        student.train().requires_grad_(True)
        optimizer = torch.optim.SGD(
            student.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=5e-4
        )
        steps = self.epochs * math.ceil(len(images) / self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with hold_masks(student, masks):
            for _ in range(self.epochs):
                order = torch.randperm(len(images), generator=draws)
                for chosen in order.split(self.batch_size):
                    batch = _shifted_and_mirrored(images[chosen], draws)
                    with torch.no_grad():
                        wanted = teacher(batch)
                    optimizer.zero_grad()
                    kl_loss(student(batch), wanted, temperature=self.temperature).backward()
                    optimizer.step()
                    schedule.step()
        student.eval().requires_grad_(False)


def _without_channels(model: nn.Module, spec: ModelSpec, max_macs: float) -> nn.Module:
    """By Torch-Pruning: as small a share of every layer's channels goes as meets the budget."""
    limit = max_macs * count_macs(model, spec.input_shape)
    too_little, enough = 0.0, 1.0
    for _ in range(8):
        ratio = (too_little + enough) / 2
        if count_macs(_pruned_by(model, spec, ratio), spec.input_shape) <= limit:
            enough = ratio
        else:
            too_little = ratio
    return _pruned_by(model, spec, enough)


def _pruned_by(model: nn.Module, spec: ModelSpec, ratio: float) -> nn.Module:
    pruned = copy.deepcopy(model).requires_grad_(True)
    classifiers = [m for m in pruned.modules() if isinstance(m, nn.Linear)]
    torch_pruning.pruner.BasePruner(
        pruned,
        torch.zeros(1, *spec.input_shape),
        torch_pruning.importance.GroupMagnitudeImportance(),
        pruning_ratio=ratio,
        max_pruning_ratio=0.95,
        ignored_layers=classifiers[-1:],
    ).step()
    return pruned


@torch.no_grad()
def _without_small_weights(student: nn.Module, share: float) -> dict[str, Tensor]:
    """Set the smallest weights of all convolutions and linear layers to zero; what is kept."""
    weights = {
        f"{name}.weight": module.weight
        for name, module in student.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }
    sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    threshold = sizes.kthvalue(max(1, round(share * len(sizes)))).values
    masks = {name: weight.abs() > threshold for name, weight in weights.items()}
    for name, kept in masks.items():
        weights[name].mul_(kept)
    return masks


def _shifted_and_mirrored(images: Tensor, draws: torch.Generator) -> Tensor:
    padded = F.pad(images, (_SHIFT,) * 4, mode="reflect")
    height, width = images.shape[2:]
    views = []
    for image in padded:
        down, right = torch.randint(2 * _SHIFT + 1, (2,), generator=draws).tolist()
        view = image[:, down : down + height, right : right + width]
        views.append(view.flip(2) if torch.rand((), generator=draws) < 0.5 else view)
    return torch.stack(views)
