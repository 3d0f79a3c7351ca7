"""The distance of BatchNorm statistics from those of the training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mixmix.models.member import Member
from mixmix.models.observation import BatchNormStatistics
from mixmix.models.zoo import Zoo
from mixmix.synthesis.terms.observation import BatchObservation, MemberObservation
from mixmix.synthesis.terms.term import MemberTerm

__all__ = ["BatchNormDistance", "bn_statistics_loss", "layer_factors", "relative_bn_loss"]

_TINY = 1e-12
# Added to the variance of each channel, as a fraction of the layer's mean: some hardly vary.
_VARIANCE_FLOOR, _SMALLEST_VARIANCE = 1e-2, 1e-8
# A layer is badly scaled if the norm of its running variances exceeds this multiple of the typical
# norm: the median of the network's layers, within these bounds. Layers of the bundled networks have
# at most 8 times as much.
_BADLY_SCALED, _TYPICAL_NORMS = 10.0, (0.5, 10.0)
# Factor of the relative distance at a weight of 1.
_RELATIVE_FACTOR = 60.0


@dataclass(frozen=True)
class BatchNormDistance(MemberTerm):
    """Distance between the BatchNorm statistics of a batch and those stored in the networks.

    Attributes:
        distance: ``absolute``: Euclidean, summed over layers, as in ZeroQ, DeepInversion and
            MixMix, eq. 2; ``relative``: in units of each channel's standard deviation, averaged
            over layers, so that one weight suits all networks; ``auto``: absolute, with layers of
            very large running variances rescaled (see ``layer_factors``), which else outweigh the
            other layers and the labels.
        first_multiplier: factor of the first BatchNorm layer of every network, >= 0.
        balance: scale the absolute distance of each network by the mean number of BatchNorm layers
            in the zoo divided by its own, so that deep networks do not dominate. The relative
            distance needs no scaling.
    """

    kind: ClassVar[str] = "bn"
    order: ClassVar[int] = 0

    distance: str = "auto"
    first_multiplier: float = 1.0
    balance: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_range("first_multiplier", low=0)
        self._require_one_of("distance", ("auto", "absolute", "relative"))

    def applies_to(self, zoo: Zoo) -> bool:
        return any(member.model.batch_norms for member in zoo.members)

    def of_member(self, seen: MemberObservation, batch: BatchObservation) -> Tensor | None:
        if not seen.statistics:
            return None
        first = self.first_multiplier
        if self.distance == "relative":
            return _RELATIVE_FACTOR * relative_bn_loss(seen.statistics, first_multiplier=first)
        weight = _depth_weight(batch.zoo, seen.member) if self.balance else 1.0
        factors = layer_factors(seen.statistics) if self.distance == "auto" else None
        return weight * bn_statistics_loss(seen.statistics, first_multiplier=first, factors=factors)


def layer_factors(statistics: Sequence[BatchNormStatistics]) -> Tensor:
    """Factors (L,) of layers' variances, 1 but for badly scaled layers.

    Multiplying the weights before a BatchNorm by s, its mean by s and its variance by s^2 does not
    change the outputs. A layer whose norm of running variances is more than ten times the typical
    one (the median, within 0.5 and 10) counts as if rescaled to the typical one.
    """
    norms = torch.stack([torch.linalg.vector_norm(s.running_var) for s in statistics])
    typical = norms.median().clamp(*_TYPICAL_NORMS)
    return torch.where(norms > _BADLY_SCALED * typical, typical / norms, 1.0)


def _depth_weight(zoo: Zoo, member: Member) -> float:
    """Mean number of BatchNorm layers of the networks with any, divided by this network's own.

    The term is a sum over layers, and Adam normalizes by the gradients of recent steps: next to a
    deep network, a shallow one would hardly move the images.
    """
    depths = [len(teacher.batch_norms) for teacher in zoo if teacher.batch_norms]
    return sum(depths) / len(depths) / len(member.model.batch_norms)


def bn_statistics_loss(
    statistics: Sequence[BatchNormStatistics],
    *,
    first_multiplier: float = 1.0,
    factors: Tensor | None = None,
) -> Tensor:
    """Distance between the BatchNorm statistics of a batch and those stored in the network.

    ``sum_l || mean_l - running_mean_l ||_2 + || var_l - running_var_l ||_2`` (DeepInversion,
    Yin et al. 2020, eq. 4; MixMix, eq. 2).

    Args:
        statistics: one per BatchNorm layer, in order of execution; not empty.
        first_multiplier: factor of the first layer.
        factors: (L,) of the variances of each layer, and, as square roots, of its means.

    Returns:
        A scalar >= 0.
    """
    if factors is None:
        factors = torch.ones(len(statistics), device=statistics[0].mean.device)
    losses = [
        factor.sqrt() * torch.linalg.vector_norm(s.mean - s.running_mean)
        + factor * torch.linalg.vector_norm(s.var - s.running_var)
        for factor, s in zip(factors, statistics, strict=True)
    ]
    total: Tensor = losses[0] * first_multiplier
    return sum(losses[1:], start=total)


def relative_bn_loss(
    statistics: Sequence[BatchNormStatistics], *, first_multiplier: float = 1.0
) -> Tensor:
    """Distance between BatchNorm statistics in units of each channel's standard deviation.

    ``1/L sum_l rms_c((mean - running_mean) / s) + rms_c((var - running_var) / s^2)`` with ``s^2``
    the running variance. For noise it is similar across networks of any depth, width and scale,
    while ``bn_statistics_loss`` differs by orders of magnitude and is dominated by the layers with
    the largest variances.

    Args:
        statistics: one per BatchNorm layer, in order of execution; not empty.
        first_multiplier: factor of the first layer.

    Returns:
        A scalar >= 0.
    """
    losses = []
    for s in statistics:
        floor = (_VARIANCE_FLOOR * s.running_var.mean()).clamp_min(_SMALLEST_VARIANCE)
        variance = s.running_var + floor
        shift = (s.mean - s.running_mean).square() / variance
        stretch = ((s.var - s.running_var) / variance).square()
        # The gradient of a norm is undefined at 0.
        losses.append(torch.stack([shift.mean(), stretch.mean()]).clamp_min(_TINY).sqrt().sum())
    total: Tensor = losses[0] * first_multiplier
    return sum(losses[1:], start=total) / len(losses)
