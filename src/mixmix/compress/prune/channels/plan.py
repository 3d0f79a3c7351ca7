"""Which channels go, for any fraction of what a network costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from mixmix.compress.method import Progress
from mixmix.compress.prune.channels.allocation import (
    keep_least_increase,
    keep_uniform,
    kept_options,
)
from mixmix.compress.prune.channels.costs import ChannelCosts
from mixmix.compress.prune.channels.latency import LatencyMeter
from mixmix.compress.prune.channels.loss_increase import lowest_channels, measure_loss_increases
from mixmix.compress.prune.channels.ranking import Ranking
from mixmix.errors import InputError
from mixmix.graph.channels.groups import ChannelGroup, Selection
from mixmix.graph.channels.removal import check_removal, remove_channels
from mixmix.graph.costs import count_macs
from mixmix.models.spec import ModelSpec

__all__ = ["ALLOCATIONS", "Candidate", "ChannelPlan", "PlanSettings", "num_parameters"]

ALLOCATIONS = ("global", "uniform", "sensitivity")

# Each costs some forward passes for each group.
_SENSITIVITY_IMAGES = 64
_LATENCY_STEPS = 6


@dataclass(frozen=True)
class PlanSettings:
    """How channels are shared out.

    Attributes:
        counts_parameters: the cost is parameters, else multiplications.
        allocation: one of ``ALLOCATIONS``; see ``PruneChannels``.
        adds_up: whether loss increases of different groups have one unit, so that they can be
            weighed against cost; else they are weighed against the number of channels.
        round_to: channels kept are a multiple of it, unless all are.
        min_fraction: of its channels that each group keeps at least.
    """

    counts_parameters: bool
    allocation: str
    adds_up: bool
    round_to: int
    min_fraction: float


@dataclass(frozen=True)
class Candidate:
    """A network with fewer channels.

    Attributes:
        network: in eval mode.
        selection: from the roots of groups to the output channels that were removed there.
        loss_increase: that rankings or sensitivities say of what was removed, all groups together.
        latency_ratio: time relative to that of the original, where it was measured.
    """

    network: nn.Module
    selection: Selection
    loss_increase: float
    latency_ratio: float | None = None


class ChannelPlan:
    """Candidates of one network at any fraction of its cost.

    Args:
        dense: the whole network, in eval mode; it is not changed.
        original: what cost and latency are relative to; it gives what ``dense`` does.
        spec: of the network.
        groups: of its channels.
        rankings: of the elements of each group.
        costs: of the network with fewer elements of each.
        images: (N, C, H, W) normalized.
        settings: how channels are shared out.
        on_progress: called with (what is being done, fraction done).
    """

    def __init__(
        self,
        dense: nn.Module,
        original: nn.Module,
        spec: ModelSpec,
        groups: Sequence[ChannelGroup],
        rankings: Sequence[Ranking],
        costs: ChannelCosts,
        images: Tensor,
        settings: PlanSettings,
        *,
        on_progress: Progress,
    ) -> None:
        self._costs = costs
        self._dense, self._spec = dense, spec
        self._settings = settings
        self._whole = self._measured_cost(original)
        self._groups, self._rankings = groups, rankings
        self._images, self._example = images, images[:4]
        self._options = [
            kept_options(
                len(group.elements),
                group.channels_per_element,
                round_to=settings.round_to,
                min_fraction=settings.min_fraction,
            )
            for group in groups
        ]
        self._on_progress = on_progress

    @cached_property
    def _increases(self) -> list[list[float]]:
        """Of each option of each group; measured late, as a plan that cannot be has no need."""
        if self._settings.allocation == "sensitivity":
            return measure_loss_increases(
                self._dense,
                self._groups,
                self._rankings,
                self._options,
                self._images[:_SENSITIVITY_IMAGES],
                on_progress=partial(self._on_progress, "measuring sensitivity"),
            )
        return [
            ranking.increases[own[0] - torch.tensor(own)].tolist()
            for ranking, own in zip(self._rankings, self._options, strict=True)
        ]

    @property
    def _least(self) -> float:
        """The smallest fraction of the cost that the options allow."""
        return float(self._cost(np.array([own[-1] for own in self._options]))) / self._whole

    def within(self, fraction: float) -> Candidate:
        """The network at no more than this fraction of the cost.

        Raises:
            InputError: if there is none, or what is left does not compute what it should.
        """
        return self._checked(self._candidate(fraction))

    def faster(self, fraction: float, meter: LatencyMeter, on_progress: Progress) -> Candidate:
        """The network at the largest fraction of the cost that is fast enough.

        Args:
            fraction: of the cost that is not exceeded either, in (0, 1]; 1 is any.
            meter: compares with the original, and knows the limit.
            on_progress: called with (what is being done, fraction done).

        Raises:
            InputError: if none is fast enough, or as for ``within``.
        """
        low, high = self._least, fraction
        smallest = self._candidate(min(low, fraction))
        measured = meter.ratio(smallest.network)
        fitting = [smallest] if measured <= meter.limit else []
        for step in range(_LATENCY_STEPS if fitting else 0):
            on_progress("measuring latency", step / _LATENCY_STEPS)
            # What is as large as it may be is enough if it is fast.
            tried = fraction if step == 0 and fraction < 1 else (low + high) / 2
            candidate = self._candidate(tried)
            if meter.ratio(candidate.network) <= meter.limit:
                low = tried
                fitting.append(candidate)
            else:
                high = tried
            if low >= high:
                break
        # A single reading may have been lucky.
        for candidate in reversed(fitting):
            measured = meter.confirmed_ratio(candidate.network)
            if measured <= meter.limit:
                on_progress("measuring latency", 1.0)
                return replace(self._checked(candidate), latency_ratio=measured)
        raise InputError(
            f"{self._spec.name} cannot be pruned to {meter.limit:.2f} of its latency: round_to="
            f"{self._settings.round_to} and min_fraction={self._settings.min_fraction:g} leave a "
            f"network that takes {measured:.2f} of it; raise the budget or lower those"
        )

    def _candidate(self, fraction: float) -> Candidate:
        if self._least > fraction:
            raise InputError(self._too_little(fraction))
        # Costs are whole numbers, and rounding must not make them look larger.
        limit = allowed = math.floor(fraction * self._whole + 1e-6)
        while True:
            kept = self._keep(limit + 0.5)
            if kept is None:
                raise InputError(self._too_little(fraction))
            selection = {
                group.root: lowest_channels(group, ranking, count)
                for group, ranking, count in zip(self._groups, self._rankings, kept, strict=True)
            }
            pruned = remove_channels(self._dense, self._example, selection)
            excess = self._measured_cost(pruned) - allowed
            if excess <= 0:
                return Candidate(pruned, selection, self._increase(kept))
            # Costs are predicted; what the prediction missed is taken off.
            limit -= excess

    def _checked(self, candidate: Candidate) -> Candidate:
        check_removal(
            candidate.network, self._dense, self._groups, candidate.selection, self._example
        )
        return candidate

    def _increase(self, kept: Sequence[int]) -> float:
        return sum(
            increases[options.index(count)]
            for increases, options, count in zip(self._increases, self._options, kept, strict=True)
        )

    def _keep(self, limit: float) -> list[int] | None:
        if self._settings.allocation == "uniform":
            return keep_uniform(self._options, self._increases, self._cost, limit)
        saved = None if self._settings.adds_up else partial(np.sum, axis=-1)
        return keep_least_increase(self._options, self._increases, self._cost, limit, saved=saved)

    def _cost(self, kept: np.ndarray) -> np.ndarray:
        if self._settings.counts_parameters:
            return self._costs.parameters(kept)
        return self._costs.macs(kept)

    def _measured_cost(self, pruned: nn.Module) -> int:
        if self._settings.counts_parameters:
            return num_parameters(pruned)
        return count_macs(pruned, self._spec.input_shape)

    def _too_little(self, fraction: float) -> str:
        what = "parameters" if self._settings.counts_parameters else "multiplications"
        least = math.ceil(1e4 * self._least) / 1e4
        return (
            f"{self._spec.name} cannot be pruned to {fraction:.4f} of its {what}: round_to="
            f"{self._settings.round_to} and min_fraction={self._settings.min_fraction:g} leave at "
            f"least {least:.4f}; raise the budget or lower those"
        )


def num_parameters(model: nn.Module) -> int:
    """Parameters of a module, each counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
