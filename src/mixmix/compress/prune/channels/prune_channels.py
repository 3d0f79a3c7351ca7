"""Structured pruning: channels are removed, which leaves a smaller dense network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixmix.compress.method import Compressed, Progress
from mixmix.compress.prune.channels.costs import ChannelCosts
from mixmix.compress.prune.channels.importance import IMPORTANCES, rank_channels
from mixmix.compress.prune.channels.records import record_channels
from mixmix.compress.prune.channels.search import Candidate, ChannelSearch
from mixmix.compress.prune.latency import latency_meter
from mixmix.compress.prune.structured import StructuredPruning, cost_ratios
from mixmix.compress.recover.recover import as_recoveries, recover
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError, translate_errors
from mixmix.graph.channels.discovery import find_groups
from mixmix.graph.channels.removal import kept_output_channels
from mixmix.graph.widths import without_fixed_widths
from mixmix.models.classes import list_some
from mixmix.runtime.memory_layout import layout_of_model

__all__ = ["PruneChannels"]

# Defaults of min_fraction; the second if the budget needs it. A layer with few channels costs more
# than the loss increases of its channels suggest, and recovers little.
_MIN_FRACTIONS = (0.25, 0.1)

# CPU kernels compute blocks of 8 or 16 channels (AVX2, AVX-512): a part of a block takes as long
# as a whole one, and is only for networks too narrow for whole blocks.
_BLOCKS = (8, 16)
_PARTS_OF_BLOCKS = (4, 1)


@dataclass(frozen=True)
class PruneChannels(StructuredPruning):
    """Remove channels until the network meets its budgets, and recover.

    Channels that layers share (residual sums, concatenations, depthwise convolutions, gates) are
    pruned together. Before recovery, the result computes what the network would with those
    channels set to zero. The results contain the ``importance``, the ``macs_ratio`` and
    ``parameters_ratio`` to the whole network, and the ``latency_ratio`` if there is a latency
    budget.

    Give at least one of ``max_macs``, ``max_parameters`` and ``max_latency``, but not the first two
    together. Within a latency budget, the network keeps as many MACs (or parameters) as possible.
    ``num_images`` and ``recovery`` are described in ``StructuredPruning``.

    Attributes:
        importance: which channels of a group are pruned first. ``obs`` prunes those with the
            smallest loss increase, to second order, if other channels compensate; ``taylor`` does
            the same without compensation; ``magnitude`` prunes those with the smallest weights.
            By default, ``obs`` if ``recovery`` adapts weights, ``taylor`` otherwise.
        round_to: widths are multiples of it, except where no channel is pruned. None is 8, since
            CPUs compute 8 or 16 channels at a time; with ``max_latency``, 8 or 16, whichever
            increases the loss less; 4 or 1 if the budgets cannot be met otherwise.
        min_fraction: minimum fraction of channels that each group keeps, in (0, 1]. None is 0.25 if
            ``recovery`` adapts weights, and 0.1 if it does not or the budget requires it.

    Raises:
        InputError: if a setting is out of range.

    Example::

        >>> import mixmix, torch
        >>> method = mixmix.PruneChannels(max_macs=0.5, num_images=8, recovery=())
        >>> images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> pruned = mixmix.compress("bundled:resnet", images, method)
        >>> 0.4 < pruned.applied[0].results["macs_ratio"] <= 0.5
        True
    """

    kind: ClassVar[str] = "prune-channels"

    importance: str | None = None
    round_to: int | None = None
    min_fraction: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_macs is not None and self.max_parameters is not None:
            raise InputError("set max_macs or max_parameters, not both")
        if self.chosen_importance not in IMPORTANCES:
            raise InputError(
                f"importance must be one of {', '.join(IMPORTANCES)}; got {self.importance!r}"
            )
        if self.round_to is not None and self.round_to < 1:
            raise InputError(f"round_to must be at least 1 or None, got {self.round_to}")
        if self.min_fraction is not None and not 0 < self.min_fraction <= 1:
            raise InputError(f"min_fraction must be above 0 and at most 1, got {self.min_fraction}")

    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Prune a copy of the model.

        Returns:
            The smaller network. It is a graph if the original's code pads channels with zeros or
            hard-codes the number of features that it flattens.

        Raises:
            InputError: if the network cannot be traced, has no prunable channels, or is quantized,
                or if the budget cannot be met; the message says which budget can.
        """
        self._check_prunable(model)
        if self.chosen_importance != "magnitude" and model.spec.num_classes < 1:
            raise InputError(
                f"{model.spec.name} has no label head, which importance {self.chosen_importance!r} "
                "needs; use importance 'magnitude'"
            )
        images = self._images(model, data, seed, "channels")
        dense = without_fixed_widths(model.module, images[:4])
        groups, reasons = find_groups(
            dense, images[:4], on_progress=partial(on_progress, "finding channels")
        )
        if not groups:
            layers: dict[str, list[str]] = {}
            for name, reason in reasons.items():
                layers.setdefault(reason, []).append(name)
            listed = "; ".join(f"{list_some(names)}: {reason}" for reason, names in layers.items())
            raise InputError(
                f"{model.spec.name} has no channels that can be pruned: "
                f"{listed or 'it has no layers'}"
            )
        with translate_errors(
            f"importance {self.chosen_importance!r} of {model.spec.name} cannot be measured",
            "use importance='magnitude'",
        ):
            rankings = rank_channels(
                self.chosen_importance,
                dense,
                groups,
                images,
                seed=seed,
                multi_label=model.spec.multi_label,
                on_progress=on_progress,
            )
        new_search = partial(
            ChannelSearch,
            dense,
            model.module,
            model.spec,
            groups,
            rankings,
            ChannelCosts(dense, model.spec.input_shape, groups),
            images[:4],
            self.max_parameters is not None,
            self.chosen_importance != "magnitude",
        )
        candidate = self._within_budgets(new_search, model, on_progress)
        pruned = candidate.network
        measured = cost_ratios(model.module, model.spec.input_shape)(pruned)
        if candidate.latency_ratio is not None:
            measured["latency_ratio"] = candidate.latency_ratio
        kept = kept_output_channels(dense, groups, candidate.selection)
        recovered = recover(
            _with_layout_of(model.module, pruned),
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
            kept_channels=_channels_of_original(model.kept_channels, kept),
        )

    @property
    def _adapts_weights(self) -> bool:
        return any(step.adapts_weights for step in as_recoveries(self.recovery))

    @property
    def chosen_importance(self) -> str:
        """``importance``, or the default if it is None."""
        return self.importance or ("obs" if self._adapts_weights else "taylor")

    def _attempts(self) -> list[tuple[tuple[int, ...], float]]:
        """Pairs of (values of ``round_to``, ``min_fraction``), to try in order."""
        widths: list[tuple[int, ...]]
        if self.round_to is not None:
            widths = [(self.round_to,)]
        else:
            blocks = _BLOCKS if self.max_latency is not None else _BLOCKS[:1]
            widths = [blocks, *((width,) for width in _PARTS_OF_BLOCKS)]
        if self.min_fraction is not None:
            fractions: Sequence[float] = [self.min_fraction]
        else:
            fractions = _MIN_FRACTIONS if self._adapts_weights else _MIN_FRACTIONS[-1:]
        return list(itertools.product(widths, fractions))

    def _within_budgets(
        self, new_search: Callable[..., ChannelSearch], model: Compressed, on_progress: Progress
    ) -> Candidate:
        """The candidate of the first attempt that meets the budgets."""

        def best(widths: Sequence[int], min_fraction: float) -> Candidate:
            searches = [new_search(round_to, min_fraction) for round_to in widths]
            return self._best(searches, model, on_progress)

        *others, last = self._attempts()
        for attempt in others:
            with suppress(InputError):
                return best(*attempt)
        return best(*last)

    def _best(
        self, searches: Sequence[ChannelSearch], model: Compressed, on_progress: Progress
    ) -> Candidate:
        """The candidate within the budgets with the smallest loss increase."""
        fraction = self.max_macs or self.max_parameters or 1.0
        if self.max_latency is None:
            (search,) = searches
            return search.within(fraction)
        candidates, errors = [], []
        with latency_meter(model.module, model.spec, self.max_latency) as meter:
            for search in searches:
                try:
                    candidates.append(search.faster(fraction, meter, on_progress))
                except InputError as error:
                    errors.append(error)
        if not candidates:
            raise errors[0]
        return min(candidates, key=lambda candidate: candidate.loss_increase)


def _channels_of_original(
    before: Mapping[str, Tensor], now: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Indices in the original of channels that are kept now, out of those kept before."""
    return dict(before) | {
        name: before[name][kept] if name in before else kept for name, kept in now.items()
    }


def _with_layout_of(original: nn.Module, pruned: nn.Module) -> nn.Module:
    """Restore the memory format of the weights, which indexing loses."""
    innermost = layout_of_model(original) is torch.channels_last
    return pruned.to(memory_format=torch.channels_last) if innermost else pruned
