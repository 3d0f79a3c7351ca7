"""Recovery by re-estimating the statistics of BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixmix.compress.method import Progress
from mixmix.compress.recover.recover import Recovery, RecoveryContext, UnitStep, iterate_units
from mixmix.graph.batch_norm import BatchNorm, is_batch_norm
from mixmix.graph.calls import called_modules
from mixmix.graph.layer_moments import captured_calls
from mixmix.graph.units import Unit

__all__ = ["ReestimateBatchNorm"]

_TINY = 1e-8
_SMALLEST_RATIO = 1e-2


@dataclass(frozen=True)
class ReestimateBatchNorm(Recovery):
    """Re-estimate the running statistics of BatchNorm in the pruned network; takes seconds.

    The original statistics describe the training data, from which the images differ. This
    difference is preserved: the mean of the images stays as many standard deviations from the
    running mean as before, and their variance the same multiple of the running variance. If it is
    unknown which channels of a narrower network remain, the statistics of the images are used.
    Networks without BatchNorm are not changed.

    Example::

        >>> import mixmix
        >>> mixmix.Prune(0.5, recovery=mixmix.ReestimateBatchNorm()).recovery
        (ReestimateBatchNorm(),)
    """

    kind: ClassVar[str] = "batch-norm"
    adapts_weights: ClassVar[bool] = False

    def recover_(self, context: RecoveryContext, *, on_progress: Progress) -> None:
        """Change the student's statistics in place, unit by unit."""
        with context.store() as store:
            for unit_step in iterate_units(context, store):
                _reestimate(unit_step, context, batch_size=store.batch_size)
                on_progress("re-estimating BatchNorm", (unit_step.index + 1) / len(context.pairs))


@torch.no_grad()
def _reestimate(unit_step: UnitStep, context: RecoveryContext, *, batch_size: int) -> None:
    """Set the statistics of every BatchNorm of the student's unit, in order of execution."""
    pair = unit_step.pair
    theirs = dict(_norms(pair.teacher))
    for name, norm in _norms(pair.student):
        mean, variance = _moments(pair.student.module, norm, unit_step.inputs, batch_size)
        other = theirs.get(name)
        if other is not None:
            old: tuple[Tensor, ...] = (
                *_moments(pair.teacher.module, other, unit_step.teacher_inputs, batch_size),
                *_statistics(other),
            )
            if name in context.kept_channels:
                channels = context.kept_channels[name].to(mean.device)
                old = tuple(each[channels] for each in old)
            old_mean, old_variance, running_mean, running_variance = old
            if len(old_mean) == len(mean):
                ratio = variance / old_variance.clamp_min(_TINY)
                mean = mean + (running_mean - old_mean) * ratio.sqrt()
                # Channels that are almost constant are not amplified.
                variance = running_variance * ratio.clamp_min(_SMALLEST_RATIO)
        own_mean, own_variance = _statistics(norm)
        own_mean.copy_(mean)
        own_variance.copy_(variance.clamp_min(_TINY))


def _norms(unit: Unit) -> Iterator[tuple[str, BatchNorm]]:
    """With running statistics, in the order of execution."""
    for name, norm in called_modules(unit.module).items():
        if is_batch_norm(norm):
            yield name, norm


def _statistics(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


def _moments(
    module: nn.Module, norm: BatchNorm, inputs: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of the inputs of a BatchNorm."""
    origin, _ = _statistics(norm)
    sums = torch.zeros(2, len(origin), device=origin.device)
    count = 0
    with captured_calls(norm) as calls:
        for batch in inputs.split(batch_size):
            module(batch.to(origin.device))
            for x, _ in calls:
                # Centered, so that squares do not lose precision.
                values = x.transpose(0, 1).flatten(1) - origin[:, None]
                sums += torch.stack([values.sum(1), values.square().sum(1)])
                count += values.shape[1]
            calls.clear()
    mean, square = (sums / count).unbind()
    return origin + mean, (square - mean.square()).clamp_min(0)
