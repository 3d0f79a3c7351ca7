"""Search for the pruned network with the smallest loss increase within the budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from mixmix.compress.method import Progress
from mixmix.compress.prune.channels.allocation import allocate_channels, width_options
from mixmix.compress.prune.channels.costs import ChannelCosts
from mixmix.compress.prune.channels.ranking import Ranking
from mixmix.compress.prune.latency import LatencyMeter
from mixmix.errors import InputError
from mixmix.graph.channels.groups import ChannelGroup, Selection
from mixmix.graph.channels.removal import check_removal, remove_channels
from mixmix.graph.costs import count_macs, count_parameters
from mixmix.models.spec import ModelSpec

__all__ = ["Candidate", "ChannelSearch"]

_LATENCY_STEPS = 6


@dataclass(frozen=True)
class Candidate:
    """A network with fewer channels.

    Attributes:
        network: in eval mode.
        selection: pruned output channels, by the roots of their groups.
        loss_increase: sum of the rankings' loss increases over all groups.
        latency_ratio: latency relative to the original, if it was measured.
    """

    network: nn.Module
    selection: Selection
    loss_increase: float
    latency_ratio: float | None = None


@dataclass(frozen=True, eq=False)
class ChannelSearch:
    """Finds candidates at any fraction of a network's cost.

    Attributes:
        dense: network to prune, in eval mode; it is not changed.
        original: network that costs are relative to; computes the same as ``dense``.
        spec: spec of the network.
        groups: channel groups of ``dense``.
        rankings: pruning order of each group.
        costs: predicts the cost of candidates.
        example: (N, C, H, W) normalized images.
        counts_parameters: whether the cost is parameters rather than MACs.
        in_nats: whether loss increases are in nats, so that groups compare by loss increase per
            saved cost; otherwise they compare by loss increase per pruned channel.
        round_to: widths are multiples of it, except for groups that keep all channels.
        min_fraction: least fraction of its channels that a group keeps.
    """

    dense: nn.Module
    original: nn.Module
    spec: ModelSpec
    groups: Sequence[ChannelGroup]
    rankings: Sequence[Ranking]
    costs: ChannelCosts
    example: Tensor
    counts_parameters: bool
    in_nats: bool
    round_to: int
    min_fraction: float

    @cached_property
    def _options(self) -> list[list[int]]:
        return [
            width_options(
                len(group.elements),
                group.channels_per_element,
                round_to=self.round_to,
                min_fraction=self.min_fraction,
            )
            for group in self.groups
        ]

    @cached_property
    def _increases(self) -> list[list[float]]:
        return [
            ranking.increases[own[0] - torch.tensor(own)].tolist()
            for ranking, own in zip(self.rankings, self._options, strict=True)
        ]

    @cached_property
    def _original_cost(self) -> int:
        return self._measured_cost(self.original)

    @cached_property
    def _least(self) -> float:
        """The smallest fraction of the cost that the options allow."""
        smallest = self._cost(np.array([own[-1] for own in self._options]))
        return float(smallest) / self._original_cost

    def within(self, fraction: float) -> Candidate:
        """The best network of at most this fraction of the cost.

        Raises:
            InputError: if there is none, or its outputs are wrong.
        """
        return self._checked(self._candidate(fraction))

    def faster(self, fraction: float, meter: LatencyMeter, on_progress: Progress) -> Candidate:
        """The network of the largest cost, up to a fraction in (0, 1], within the latency budget.

        Raises:
            InputError: if no network is fast enough, or as for ``within``.
        """
        low, high = self._least, fraction
        smallest = self._candidate(min(low, fraction))
        measured = meter.ratio(smallest.network)
        fitting = [smallest] if measured <= meter.limit else []
        for step in range(_LATENCY_STEPS if fitting else 0):
            on_progress("measuring latency", step / _LATENCY_STEPS)
            # The search is over if the largest network allowed is fast enough.
            tried = fraction if step == 0 and fraction < 1 else (low + high) / 2
            candidate = self._candidate(tried)
            if meter.ratio(candidate.network) <= meter.limit:
                low = tried
                fitting.append(candidate)
            else:
                high = tried
            if low >= high:
                break
        # A single measurement may be too low by chance.
        for candidate in reversed(fitting):
            measured = meter.confirmed_ratio(candidate.network)
            if measured <= meter.limit:
                on_progress("measuring latency", 1.0)
                return replace(self._checked(candidate), latency_ratio=measured)
        raise self._exceeded(meter.limit, "latency", measured)

    def _candidate(self, fraction: float) -> Candidate:
        what = "parameters" if self.counts_parameters else "MACs"
        if self._least > fraction:
            raise self._exceeded(fraction, what, self._least)
        # Costs are integers; the offset absorbs rounding errors.
        limit = allowed = math.floor(fraction * self._original_cost + 1e-6)
        saved = None if self.in_nats else partial(np.sum, axis=-1)
        while True:
            counts = allocate_channels(
                self._options, self._increases, self._cost, limit + 0.5, saved=saved
            )
            if counts is None:
                raise self._exceeded(fraction, what, self._least)
            selection = {
                group.root: _lowest_channels(group, ranking, count)
                for group, ranking, count in zip(self.groups, self.rankings, counts, strict=True)
            }
            pruned = remove_channels(self.dense, self.example, selection)
            excess = self._measured_cost(pruned) - allowed
            if excess <= 0:
                return Candidate(pruned, selection, self._increase(counts))
            # Predicted costs are approximate: lower the limit by the error.
            limit -= excess

    def _checked(self, candidate: Candidate) -> Candidate:
        check_removal(candidate.network, self.dense, self.groups, candidate.selection, self.example)
        return candidate

    def _increase(self, counts: Sequence[int]) -> float:
        return sum(
            increases[options.index(count)]
            for increases, options, count in zip(
                self._increases, self._options, counts, strict=True
            )
        )

    def _cost(self, counts: np.ndarray) -> np.ndarray:
        return self.costs.parameters(counts) if self.counts_parameters else self.costs.macs(counts)

    def _measured_cost(self, network: nn.Module) -> int:
        if self.counts_parameters:
            return count_parameters(network)
        return count_macs(network, self.spec.input_shape)

    def _exceeded(self, fraction: float, what: str, least: float) -> InputError:
        least = math.ceil(1e4 * least) / 1e4
        return InputError(
            f"{self.spec.name} cannot be pruned to {fraction:.4g} of its {what}: round_to="
            f"{self.round_to} and min_fraction={self.min_fraction:g} leave at least {least:.4f}; "
            "raise the budget or lower those"
        )


def _lowest_channels(group: ChannelGroup, ranking: Ranking, count: int) -> list[int]:
    """Output channels of the root to prune so that ``count`` elements are left."""
    pruned = ranking.order[: len(group.elements) - count].tolist()
    return sorted(channel for element in pruned for channel in group.elements[element])
