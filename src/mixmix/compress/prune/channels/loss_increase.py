"""How far the prediction moves when a group of channels alone is pruned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mixmix.compress.divergence import mean_divergence, run_in_batches
from mixmix.compress.prune.channels.ranking import Ranking
from mixmix.graph.channels.groups import ChannelGroup
from mixmix.graph.channels.removal import silence_channels_

__all__ = ["lowest_channels", "measure_loss_increases"]

_NUM_FRACTIONS = 4


def lowest_channels(group: ChannelGroup, ranking: Ranking, kept: int) -> list[int]:
    """Output channels of the root that go where so many elements are kept."""
    removed = ranking.order[: len(group.elements) - kept].tolist()
    return sorted(channel for element in removed for channel in group.elements[element])


@torch.no_grad()
def measure_loss_increases(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    rankings: Sequence[Ranking],
    options: Sequence[Sequence[int]],
    images: Tensor,
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> list[list[float]]:
    """Mean divergence from the prediction of the whole network, each group pruned alone.

    It is measured at a few of a group's options and interpolated between them. Statistics of
    BatchNorm stay those of the whole network.

    Args:
        model: the dense network, in eval mode; it is not changed.
        groups: of its channels.
        rankings: of the elements of each group.
        options: for each group how many elements it may keep, from all of them downwards.
        images: (N, C, H, W) normalized.
        on_progress: called with the fraction done.

    Returns:
        For each option of each group, in nats; they do not fall.
    """
    logits = run_in_batches(model, images)
    increases = []
    for index, (group, ranking, own) in enumerate(zip(groups, rankings, options, strict=True)):
        places = sorted(
            set(np.linspace(0, len(own) - 1, _NUM_FRACTIONS).round().astype(int).tolist())
        )
        measured = [0.0]
        for place in places[1:]:
            pruned = copy.deepcopy(model)
            chosen = lowest_channels(group, ranking, own[place])
            silence_channels_(pruned, [group], {group.root: chosen})
            measured.append(mean_divergence(logits, run_in_batches(pruned, images)))
        rising = np.maximum.accumulate(measured)
        removed = [own[0] - count for count in own]
        increases.append(np.interp(removed, [removed[place] for place in places], rising).tolist())
        on_progress((index + 1) / len(groups))
    return increases
