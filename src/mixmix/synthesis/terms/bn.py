"""BatchNorm statistics: images look to a network as its training data did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mixmix.errors import InputError
from mixmix.models.member import Member
from mixmix.models.observation import BatchNormStatistics
from mixmix.models.zoo import Zoo
from mixmix.synthesis.terms.observation import BatchObservation, MemberObservation
from mixmix.synthesis.terms.term import MemberTerm

__all__ = ["BatchNormDistance", "bn_statistics_loss", "relative_bn_loss"]

_DISTANCES = ("auto", "absolute", "relative")
_TINY = 1e-12
# Of the mean variance of a layer, what is added to that of each channel: some hardly vary.
_VARIANCE_FLOOR, _SMALLEST_VARIANCE = 1e-2, 1e-8
# Networks on CIFAR-10 have 4 to 15 and a MobileNetV2 on ImageNet has 2, for which the absolute
# distance is the better; EfficientNet-Lite has 400, and its images lose their labels by it.
_LARGEST_VARIANCE_NORM = 100.0
# What the relative distance counts at a weight of 1.
_OF_RELATIVE = 60.0


@dataclass(frozen=True)
class BatchNormDistance(MemberTerm):
    """Distance between the BatchNorm statistics of a batch and those stored in the networks.

    Attributes:
        weight: factor of the term, >= 0.
        distance: ``absolute``: Euclidean, summed over layers, as in ZeroQ, DeepInversion and
            MixMix, eq. 2; ``relative``: in units of what each channel varies by, a mean over
            layers, so that one weight suits all networks; ``auto``: absolute, but for networks
            whose channels vary so much that labels would be lost beside it.
        first_multiplier: extra weight of the first BatchNorm layer of every network, >= 0.
        balance: weigh the absolute distance of each network by the mean number of BatchNorm layers
            in the zoo over its own, so that deep networks do not drown the others; the relative one
            is balanced by itself.
    """

    kind: ClassVar[str] = "bn"
    order: ClassVar[int] = 0

    distance: str = "auto"
    first_multiplier: float = 1.0
    balance: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_finite("first_multiplier")
        if self.distance not in _DISTANCES:
            raise InputError(
                f"BatchNormDistance.distance must be one of {', '.join(_DISTANCES)}, got "
                f"{self.distance!r}"
            )

    def applies_to(self, zoo: Zoo) -> bool:
        """Whether a network has BatchNorm."""
        return any(member.model.batch_norms for member in zoo.members)

    def of_member(self, seen: MemberObservation, batch: BatchObservation) -> Tensor | None:
        """The distance of one network."""
        if not seen.statistics:
            return None
        first = self.first_multiplier
        if self._distance_for(seen.member) == "relative":
            return _OF_RELATIVE * relative_bn_loss(seen.statistics, first_multiplier=first)
        weight = _depth_weight(batch.zoo, seen.member) if self.balance else 1.0
        return weight * bn_statistics_loss(seen.statistics, first_multiplier=first)

    def _distance_for(self, member: Member) -> str:
        if self.distance != "auto":
            return self.distance
        is_wide = member.model.variance_norm > _LARGEST_VARIANCE_NORM
        return "relative" if is_wide else "absolute"


def _depth_weight(zoo: Zoo, member: Member) -> float:
    """Mean number of BatchNorm layers of the networks that have any, over this network's own.

    The term is a sum over layers. Adam makes steps of one size out of the gradients that it has
    seen of late, so that next to a deep network a shallow one would move the images little.
    """
    depths = [len(teacher.batch_norms) for teacher in zoo if teacher.batch_norms]
    return sum(depths) / len(depths) / len(member.model.batch_norms)


def bn_statistics_loss(
    statistics: Sequence[BatchNormStatistics], *, first_multiplier: float = 1.0
) -> Tensor:
    """Distance between the BatchNorm statistics of a batch and those stored in the network.

    ``sum_l || mean_l - running_mean_l ||_2 + || var_l - running_var_l ||_2`` (DeepInversion,
    Yin et al. 2020, eq. 4; MixMix, eq. 2); the first layer counts ``first_multiplier`` times.

    Args:
        statistics: one per BatchNorm layer, in order of execution; not empty.

    Returns:
        A scalar >= 0.
    """
    losses = [
        torch.linalg.vector_norm(s.mean - s.running_mean)
        + torch.linalg.vector_norm(s.var - s.running_var)
        for s in statistics
    ]
    total: Tensor = losses[0] * first_multiplier
    return sum(losses[1:], start=total)


def relative_bn_loss(
    statistics: Sequence[BatchNormStatistics], *, first_multiplier: float = 1.0
) -> Tensor:
    """Distance between BatchNorm statistics in units of what each channel varies by.

    ``1/L sum_l rms_c((mean - running_mean) / s) + rms_c((var - running_var) / s^2)`` with ``s^2``
    the running variance. Noise is about as far from any network, however deep, wide or badly scaled
    it is, where ``bn_statistics_loss`` differs by orders of magnitude and mostly sees the layers
    whose channels vary most.

    Args:
        statistics: one per BatchNorm layer, in order of execution; not empty.
        first_multiplier: what the first layer counts.

    Returns:
        A scalar >= 0.
    """
    losses = []
    for s in statistics:
        floor = (_VARIANCE_FLOOR * s.running_var.mean()).clamp_min(_SMALLEST_VARIANCE)
        variance = s.running_var + floor
        shift = (s.mean - s.running_mean).square() / variance
        stretch = ((s.var - s.running_var) / variance).square()
        # The gradient of a norm is not defined where both are the same.
        losses.append(torch.stack([shift.mean(), stretch.mean()]).clamp_min(_TINY).sqrt().sum())
    total: Tensor = losses[0] * first_multiplier
    return sum(losses[1:], start=total) / len(losses)
