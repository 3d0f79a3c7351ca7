"""A zoo as one teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixmix.zoo.spec import ModelSpec
from mixmix.zoo.teacher import normalise
from mixmix.zoo.zoo import Zoo

__all__ = ["Ensemble"]

_TINY = 1e-12


class Ensemble(nn.Module):
    """The logarithm of the mean prediction of a zoo's members with a label head.

    Args:
        zoo: at least one of them has one.
        spec: how the images that it takes are normalised.
    """

    def __init__(self, zoo: Zoo, spec: ModelSpec) -> None:
        super().__init__()
        headed = [teacher for teacher in zoo if teacher.has_label_head]
        self.members = nn.ModuleList(teacher.model for teacher in headed)
        self._specs = [teacher.spec for teacher in headed]
        mean, std = (
            torch.tensor(values, device=zoo.device).view(1, -1, 1, 1)
            for values in (spec.mean, spec.std)
        )
        self._mean, self._std = mean, std

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        images = inputs * self._std + self._mean
        predictions = [
            member(normalise(images, spec)).softmax(1)
            for member, spec in zip(self.members, self._specs, strict=True)
        ]
        return torch.stack(predictions).mean(0).clamp_min(_TINY).log()
