"""Importance of channels, and the pruning order that follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mixmix.compress.divergence import fisher_directions
from mixmix.compress.method import Progress
from mixmix.compress.prune.channels.covariance import in_batches, input_axis, read_covariances
from mixmix.compress.prune.channels.ranking import Ranking, rank_by_scores, rank_with_compensation
from mixmix.graph.channels.groups import ChannelGroup, Part
from mixmix.runtime import seeding

__all__ = ["IMPORTANCES", "magnitude_importance", "rank_channels", "taylor_importance"]

IMPORTANCES = ("obs", "taylor", "magnitude")


def rank_channels(
    importance: str,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    images: Tensor,
    *,
    seed: int,
    on_progress: Progress,
) -> list[Ranking]:
    """Rank the elements of each group by one of ``IMPORTANCES``, on normalized images."""
    if importance == "magnitude":
        return [rank_by_scores(score) for score in magnitude_importance(model, groups)]
    scores = taylor_importance(
        model,
        groups,
        images,
        generator=seeding.generator(seed, "channel importance"),
        on_progress=partial(on_progress, "measuring channels"),
    )
    if importance == "taylor":
        return [rank_by_scores(score) for score in scores]
    covariances = read_covariances(model, groups, images)
    return [rank_with_compensation(*pair) for pair in zip(scores, covariances, strict=True)]


@torch.no_grad()
def magnitude_importance(model: nn.Module, groups: Sequence[ChannelGroup]) -> list[Tensor]:
    """Squared L2 norm of the weights that produce each channel.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets", with the squared Euclidean norm.
    Where several layers produce a channel, the sum over them (Fang et al. 2023, DepGraph,
    section 3.3), each relative to the mean of its layer.

    Returns:
        For each group, the scores (elements,), of mean 1.
    """
    modules = dict(model.named_modules())
    scores = []
    for group in groups:
        total = torch.zeros(len(group.elements))
        for part in group.parts:
            layer = modules.get(part.layer)
            if part.is_input or not isinstance(layer, _ConvNd | nn.Linear):
                continue
            weight = layer.weight
            if isinstance(layer, _ConvNd) and layer.transposed and layer.groups == 1:
                weight = weight.transpose(0, 1)
            total += _relative(_of_elements(weight.square().flatten(1).sum(1), part))
        scores.append(_relative(total))
    return scores


def taylor_importance(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    images: Tensor,
    *,
    generator: torch.Generator,
    num_directions: int = 2,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> list[Tensor]:
    """Divergence of the predictions if a channel is pruned, to second order.

    Each element is multiplied by a gate of value one, for each image. The divergence from the
    network's own prediction is minimal there, so its gradient with respect to the gate is zero;
    its second derivative is the Fisher information (Theis et al. 2018, "Faster gaze prediction
    with dense networks and Fisher pruning", eq. 8), estimated by random directions of the logits.
    No labels are used.

    Args:
        model: dense network, in eval mode.
        groups: its channel groups.
        images: (N, C, H, W) normalized.
        generator: CPU generator for the directions.
        num_directions: directions for each image.
        on_progress: called with the fraction done.

    Returns:
        For each group, the scores (elements,) in nats, averaged over images.
    """
    modules = dict(model.named_modules())
    consumers = sorted({part.layer for group in groups for part in group.consumers})
    gates: dict[str, list[Tensor]] = {}

    def gate(name: str) -> Callable[[nn.Module, Any], Any]:
        def hook(module: nn.Module, inputs: Any) -> Any:
            x = inputs[0]
            axis = input_axis(module, x)
            shape = [x.shape[0], *(1,) * (x.ndim - 1)]
            shape[axis] = x.shape[axis]
            factor = torch.ones(shape, device=x.device, requires_grad=True)
            gates.setdefault(name, []).append(factor)
            return (x * factor, *inputs[1:])

        return hook

    indices = [
        [(part.layer, torch.tensor(part.indices)) for part in group.consumers] for group in groups
    ]
    totals = [torch.zeros(len(group.elements), dtype=torch.float64) for group in groups]
    hooks = [modules[name].register_forward_pre_hook(gate(name)) for name in consumers]
    done = 0
    try:
        for batch in in_batches(images):
            gates.clear()
            with torch.enable_grad():
                logits = model(batch)
            flat = [factor for name in consumers for factor in gates[name]]
            for _ in range(num_directions):
                signs = torch.randint(2, logits.shape, generator=generator).to(logits) * 2 - 1
                directions = fisher_directions(logits.detach(), signs)
                found = iter(torch.autograd.grad(logits, flat, directions, retain_graph=True))
                gradients = {
                    name: sum(_per_image(next(found), len(batch)) for _ in gates[name]).cpu()  # type: ignore[union-attr]
                    for name in consumers
                }
                for total, parts in zip(totals, indices, strict=True):
                    derivative = torch.stack(
                        [gradients[name][:, index].sum(2) for name, index in parts]
                    ).sum(0)
                    total += derivative.double().square().sum(0)
            done += len(batch)
            on_progress(done / len(images))
    finally:
        for handle in hooks:
            handle.remove()
    return [(total / (2 * num_directions * len(images))).float() for total in totals]


def _per_image(gradient: Tensor, num_images: int) -> Tensor:
    """(num_images, C) from rows (num_images * n, ...), such as patches or windows of images.

    Where rows do not belong to single images, each image gets an equal fraction of the whole: the
    directions of images are independent, so the squares have the same sum on average.
    """
    rows = gradient.flatten(1)
    if len(rows) % num_images:
        return rows.sum(0).expand(num_images, -1) / math.sqrt(num_images)
    return rows.view(num_images, -1, rows.shape[1]).sum(1)


def _of_elements(values: Tensor, part: Part) -> Tensor:
    """Sum over the channels of each element."""
    return values.cpu().float()[torch.tensor(part.indices)].sum(1)


def _relative(scores: Tensor) -> Tensor:
    return scores / scores.mean().clamp_min(1e-30)
