"""A zoo as a single teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixmix.errors import InputError
from mixmix.models.member import label_map
from mixmix.models.model import normalize
from mixmix.models.spec import ModelSpec
from mixmix.models.zoo import Zoo

__all__ = ["Ensemble"]

_TINY = 1e-12


class Ensemble(nn.Module):
    """Logarithm of the mean prediction of the members of a zoo that have a label head.

    Args:
        zoo: networks, at least one with a label head.
        spec: normalization of the inputs, and classes of the outputs.

    Raises:
        InputError: if no member has a label head, or the zoo does not have these classes.
    """

    def __init__(self, zoo: Zoo, spec: ModelSpec) -> None:
        super().__init__()
        self.members = nn.ModuleList(member.model.module for member in zoo.headed)
        self._members = zoo.headed
        if not self._members:
            raise InputError(f"none of {', '.join(zoo.names)} has a label head to learn from")
        labels, why = label_map(spec, self._members[0].model.spec)
        if labels is None:
            raise InputError(f"the ensemble cannot teach the classes of {spec.name}: {why}")
        if zoo.multi_label != spec.multi_label:
            raise InputError(f"multi_label of the ensemble is not that of {spec.name}")
        self._labels, self._spec = list(labels), spec
        self._mean, self._std = (
            torch.tensor(values, device=zoo.device).view(1, -1, 1, 1)
            for values in (spec.mean, spec.std)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of normalized images (N, C, H, W)."""
        images = inputs * self._std + self._mean
        predictions = [
            self._spec.probabilities(
                member.logits_of_zoo(model(normalize(images, member.model.spec)))
            )
            for model, member in zip(self.members, self._members, strict=True)
        ]
        mean = torch.stack(predictions).mean(0).clamp_min(_TINY)
        logits = mean.logit(_TINY) if self._spec.multi_label else mean.log()
        return logits[:, self._labels]
