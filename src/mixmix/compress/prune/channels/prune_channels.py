"""Structured pruning: whole channels are removed, and what is left is a smaller dense network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixmix.compress.method import Compressed, Method, Progress
from mixmix.compress.prune.budgets import check_budgets, given_budgets, in_words
from mixmix.compress.prune.channels.costs import ChannelCosts
from mixmix.compress.prune.channels.importance import (
    IMPORTANCES,
    OF_THE_PREDICTION,
    rank_channels,
)
from mixmix.compress.prune.channels.latency import LatencyMeter
from mixmix.compress.prune.channels.plan import (
    ALLOCATIONS,
    Candidate,
    ChannelPlan,
    PlanSettings,
    num_parameters,
)
from mixmix.compress.prune.channels.records import record_channels
from mixmix.compress.recover.features import ReconstructFeatures
from mixmix.compress.recover.fine_tuning import FineTune
from mixmix.compress.recover.recover import Recovery, as_recoveries, recover
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.graph.channels.discovery import find_groups
from mixmix.graph.channels.removal import kept_output_channels
from mixmix.graph.costs import count_macs
from mixmix.graph.masks import refuse_quantized
from mixmix.graph.widths import without_fixed_widths
from mixmix.models.model import normalize
from mixmix.runtime import seeding
from mixmix.runtime.memory_layout import layout_of_model

__all__ = ["PruneChannels"]

# Of its channels, that a group keeps at least; the second where the first leaves too much. Few
# channels in a layer are worse than the loss increase of each alone suggests, and adapt little.
_MIN_FRACTIONS = (0.25, 0.1)

# Kernels for the CPU work on blocks of 8 or 16 channels (AVX2, AVX-512): what falls short of a
# block costs as much as the whole. Parts of a block are for networks too narrow for whole ones.
_BLOCKS = (8, 16)
_PARTS_OF_BLOCKS = (4, 1)


@dataclass(frozen=True)
class PruneChannels(Method):
    """Remove channels until the network costs a fraction of what it did.

    Channels that several layers share (residual sums, concatenations, depthwise convolutions,
    gates) go together. What is left computes what the network would with those channels silent,
    and then recovers. At least one budget is given, and none is exceeded. The results hold the
    ``importance``, and what fraction is left of multiplications and parameters (``macs_ratio``,
    ``parameters_ratio``), and of the time if that was a budget (``latency_ratio``).

    Attributes:
        max_macs: multiplications relative to those of the whole network, in (0, 1).
        max_parameters: parameters likewise; not together with ``max_macs``.
        max_latency: time of one image in ONNX Runtime on one thread likewise, measured here and
            now; the most multiplications (or parameters) are searched for that meet it.
        importance: which channels of a group go first. ``obs``: those whose loss moves the
            prediction least, to second order, if the channels that are left stand in for them as
            far as they can; ``taylor``: the same if they do not; ``magnitude``: those with the
            smallest weights; ``bn-scale``: those with the smallest factors of BatchNorm. None
            takes ``obs`` where ``recovery`` adapts weights, else ``taylor``.
        allocation: how many channels each group loses. ``global``: all channels are ranked together
            (``obs`` and ``taylor`` by what a multiplication or parameter saved costs, the others
            relative to the mean of their layer); ``uniform``: the same fraction everywhere;
            ``sensitivity``: by how far the prediction moves when a group is pruned alone.
        round_to: channels kept are a multiple of it, unless all are. None takes 8, as CPUs
            compute 8 or 16 at a time, and with ``max_latency`` that of the two which increases the
            loss less; 4 or 1 where the budgets cannot be met with those.
        min_fraction: of its channels that each group keeps at least, in (0, 1]. None takes a
            quarter where ``recovery`` adapts weights, and a tenth where it does not, or where the
            budget cannot be met with a quarter.
        num_images: images that importance is measured on.
        recovery: one, or several to apply in order; ``()`` for none.
    """

    kind: ClassVar[str] = "prune-channels"

    max_macs: float | None = None
    max_parameters: float | None = None
    max_latency: float | None = None
    importance: str | None = None
    allocation: str = "global"
    round_to: int | None = None
    min_fraction: float | None = None
    num_images: int = 256
    recovery: Recovery | Sequence[Recovery] = field(default=(ReconstructFeatures(), FineTune()))

    def __post_init__(self) -> None:
        check_budgets(self)
        if self.max_macs is not None and self.max_parameters is not None:
            raise InputError("give max_macs or max_parameters, not both")
        for name, given, known in (
            ("importance", self.chosen_importance, IMPORTANCES),
            ("allocation", self.allocation, ALLOCATIONS),
        ):
            if given not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}; got {given!r}")
        if self.round_to is not None and self.round_to < 1:
            raise InputError(f"round_to must be at least 1 or None, got {self.round_to}")
        if self.min_fraction is not None and not 0 < self.min_fraction <= 1:
            raise InputError(f"min_fraction must be above 0 and at most 1, got {self.min_fraction}")
        if self.num_images < 2:
            raise InputError(f"num_images must be at least 2, got {self.num_images}")
        object.__setattr__(self, "recovery", as_recoveries(self.recovery))

    @property
    def setting(self) -> str:
        """What is pruned, in a word."""
        return in_words(given_budgets(self))

    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Prune a copy of the model.

        Returns:
            The smaller network. Where the original's code pads channels with zeros, or names the
            number of features that it flattens, it is a graph that does without.

        Raises:
            InputError: if the network cannot be traced, nothing of it can be pruned, it is
                quantized, or the budget cannot be met; the message says what can.
        """
        _check_prunable(model, self)
        device = next(model.module.parameters()).device
        order = torch.randperm(len(data), generator=seeding.generator(seed, "channels"))
        images = normalize(data.images[order[: self.num_images]], model.spec).to(device)
        dense = without_fixed_widths(model.module, images[:4])
        groups, reasons = find_groups(
            dense, images[:4], on_progress=partial(on_progress, "finding channels")
        )
        rankings = rank_channels(
            self.chosen_importance, dense, groups, images, seed=seed, on_progress=on_progress
        )
        for group, ranking in zip(groups, rankings, strict=True):
            if ranking is None:
                reasons[group.root] = "no BatchNorm has its channels"
        known = {g.root: r for g, r in zip(groups, rankings, strict=True) if r is not None}
        groups = [group for group in groups if group.root in known]
        if not groups:
            raise InputError(
                f"{model.spec.name} has no channels that can be pruned: {_listed(reasons)}"
            )

        costs = ChannelCosts(dense, model.spec.input_shape, groups)

        def plans(widths: Sequence[int], min_fraction: float) -> list[ChannelPlan]:
            return [
                ChannelPlan(
                    dense,
                    model.module,
                    model.spec,
                    groups,
                    list(known.values()),
                    costs,
                    images,
                    PlanSettings(
                        counts_parameters=self.max_parameters is not None,
                        allocation=self.allocation,
                        # Scores relative to the mean of a layer do not say what would be missed.
                        adds_up=self.chosen_importance in OF_THE_PREDICTION
                        or self.allocation == "sensitivity",
                        round_to=round_to,
                        min_fraction=min_fraction,
                    ),
                    on_progress=on_progress,
                )
                for round_to in widths
            ]

        candidate = self._within_budgets(plans, model, on_progress)
        shape = model.spec.input_shape
        pruned = candidate.network
        measured = {
            "macs_ratio": count_macs(pruned, shape) / count_macs(model.module, shape),
            "parameters_ratio": num_parameters(pruned) / num_parameters(model.module),
        }
        if candidate.latency_ratio is not None:
            measured["latency_ratio"] = candidate.latency_ratio
        kept = kept_output_channels(dense, groups, candidate.selection)
        recovered = recover(
            _laid_out_like(pruned, model.module),
            dense,
            data,
            model.spec,
            self.recovery,
            kept_channels=kept,
            seed=seed,
            on_progress=on_progress,
        )
        return model.with_method(
            self,
            {"importance": self.chosen_importance} | measured,
            module=recovered,
            records=record_channels(model.module, pruned, groups, reasons),
            original=dense if model.original is None else model.original,
            kept_channels=_kept_of_original(model.kept_channels, kept),
        )

    @property
    def _adapted(self) -> bool:
        """Whether weights make up for channels that went, and not statistics alone."""
        return any(step.adapts_weights for step in as_recoveries(self.recovery))

    @property
    def chosen_importance(self) -> str:
        """``importance``, or what None stands for."""
        return self.importance or ("obs" if self._adapted else "taylor")

    @property
    def _attempts(self) -> list[tuple[tuple[int, ...], float]]:
        """What widths may be multiples of, and the least fraction; the first that fits is taken."""
        if self.round_to is not None:
            widths: list[tuple[int, ...]] = [(self.round_to,)]
        else:
            blocks = _BLOCKS if self.max_latency is not None else _BLOCKS[:1]
            widths = [blocks, *((width,) for width in _PARTS_OF_BLOCKS)]
        if self.min_fraction is not None:
            fractions: Sequence[float] = [self.min_fraction]
        else:
            fractions = _MIN_FRACTIONS if self._adapted else _MIN_FRACTIONS[-1:]
        return list(itertools.product(widths, fractions))

    def _within_budgets(
        self,
        plans: Callable[[Sequence[int], float], Sequence[ChannelPlan]],
        model: Compressed,
        on_progress: Progress,
    ) -> Candidate:
        """What is chosen by the first attempt that meets the budgets."""
        *others, last = self._attempts
        for attempt in others:
            with suppress(InputError):
                return self._chosen(plans(*attempt), model, on_progress)
        return self._chosen(plans(*last), model, on_progress)

    def _chosen(
        self, plans: Sequence[ChannelPlan], model: Compressed, on_progress: Progress
    ) -> Candidate:
        """The candidate within the budgets with the smallest loss increase."""
        fraction = self.max_macs or self.max_parameters or 1.0
        if self.max_latency is None:
            (plan,) = plans
            return plan.within(fraction)
        candidates, errors = [], []
        with LatencyMeter(model.module, model.spec, self.max_latency) as meter:
            for plan in plans:
                try:
                    candidates.append(plan.faster(fraction, meter, on_progress))
                except InputError as error:
                    errors.append(error)
        if not candidates:
            raise errors[0]
        return min(candidates, key=lambda candidate: candidate.loss_increase)


def _check_prunable(model: Compressed, settings: PruneChannels) -> None:
    refuse_quantized(model.module, model.spec.name)
    if model.masks:
        raise InputError(
            f"single weights of {model.spec.name} are pruned already, and what they were chosen by "
            "changes with its channels; give PruneChannels before Prune"
        )
    needs_logits = (
        settings.chosen_importance in OF_THE_PREDICTION or settings.allocation == "sensitivity"
    )
    if needs_logits and model.spec.num_classes < 1:
        raise InputError(
            f"{model.spec.name} has no label head, and importance 'obs' and 'taylor' and "
            "allocation 'sensitivity' go by predictions; use magnitude or bn-scale, and global or "
            "uniform"
        )


def _kept_of_original(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Channels of the original that are left, from those left before and which of them are now."""
    return dict(before) | {
        name: before[name][kept] if name in before else kept for name, kept in now.items()
    }


def _laid_out_like(pruned: nn.Module, original: nn.Module) -> nn.Module:
    """In the order of memory of the original's weights, which indexing does not keep."""
    innermost = layout_of_model(original) is torch.channels_last
    return pruned.to(memory_format=torch.channels_last) if innermost else pruned


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "it has no layers"
