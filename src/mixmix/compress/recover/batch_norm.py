"""Recovery by the statistics of BatchNorm alone, which follow from the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixmix.compress.method import Progress
from mixmix.compress.recover.recover import Recovery, RecoveryContext, iterate_units
from mixmix.graph.calls import called_modules
from mixmix.graph.layer_moments import captured_calls
from mixmix.graph.unit_pairs import UnitPair
from mixmix.graph.units import Unit

__all__ = ["ReestimateBatchNorm"]

_TINY = 1e-8
_SMALLEST_RATIO = 1e-2
Norm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True)
class ReestimateBatchNorm(Recovery):
    """Set the running statistics of BatchNorm to what the pruned network gives; seconds.

    Those of the original are of its training data, which the images are only like. Hence what is
    matched is not what the images give, but how far that is from the statistics: the images stand
    as many standard deviations from the new mean as they did from the old one, and their variance
    is the same multiple of the new one. Where nothing tells which of the original's channels are
    those of a narrower network, it has the statistics of the images. Without BatchNorm there is
    nothing to do.
    """

    kind: ClassVar[str] = "batch-norm"
    adapts_weights: ClassVar[bool] = False

    def recover_(self, context: RecoveryContext, *, on_progress: Progress) -> None:
        """Change the student's statistics, unit by unit, each behind those that have new ones."""
        with context.store() as store:
            for unit_step in iterate_units(context, store):
                _reestimate(
                    unit_step.pair,
                    unit_step.inputs,
                    unit_step.teacher_inputs,
                    kept_channels=context.kept_channels,
                    batch_size=store.batch_size,
                )
                on_progress("re-estimating BatchNorm", (unit_step.index + 1) / len(context.pairs))


@torch.no_grad()
def _reestimate(
    pair: UnitPair,
    inputs: Tensor,
    teacher_inputs: Tensor,
    *,
    kept_channels: Mapping[str, Tensor],
    batch_size: int,
) -> None:
    """Set the statistics of every BatchNorm of the student's unit, one behind the other."""
    theirs = dict(_norms(pair.teacher))
    for name, norm in _norms(pair.student):
        mean, variance = _moments(pair.student.module, norm, inputs, batch_size)
        other = theirs.get(name)
        if other is not None:
            seen = (*_moments(pair.teacher.module, other, teacher_inputs, batch_size),)
            stored = (_given(other.running_mean), _given(other.running_var))
            if name in kept_channels:
                channels = kept_channels[name].to(mean.device)
                seen = (seen[0][channels], seen[1][channels])
                stored = (stored[0][channels], stored[1][channels])
            if len(seen[0]) == len(mean):
                ratio = variance / seen[1].clamp_min(_TINY)
                mean = mean + (stored[0] - seen[0]) * ratio.sqrt()
                # What is left of a channel that is almost gone is not to be blown up.
                variance = stored[1] * ratio.clamp_min(_SMALLEST_RATIO)
        _given(norm.running_mean).copy_(mean)
        _given(norm.running_var).copy_(variance.clamp_min(_TINY))


def _norms(unit: Unit) -> Iterator[tuple[str, Norm]]:
    """With running statistics, in the order of execution."""
    for name, norm in called_modules(unit.module).items():
        if isinstance(norm, Norm) and norm.running_mean is not None:
            yield name, norm


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "a BatchNorm with running statistics"
    return tensor


def _moments(
    module: nn.Module, norm: Norm, inputs: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of what enters a BatchNorm."""
    origin = _given(norm.running_mean)
    sums = torch.zeros(2, len(origin), device=origin.device)
    count = 0
    with captured_calls(norm) as calls:
        for batch in inputs.split(batch_size):
            module(batch.to(origin.device))
            for x, _ in calls:
                # From the stored mean, so that no digits are lost in the squares.
                values = x.transpose(0, 1).flatten(1) - origin[:, None]
                sums += torch.stack([values.sum(1), values.square().sum(1)])
                count += values.shape[1]
            calls.clear()
    mean, square = (sums / count).unbind()
    return origin + mean, (square - mean.square()).clamp_min(0)
