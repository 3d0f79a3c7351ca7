"""What to prune of which layer: criteria, allocation and masks of a whole network."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixmix.compress.divergence import mean_divergence
from mixmix.compress.method import Progress
from mixmix.compress.prune.weights.allocation import (
    allocate_by_increase,
    allocate_by_rank,
    allocate_evenly,
    lamp_scores,
)
from mixmix.compress.prune.weights.obs import prune_rows
from mixmix.compress.recover.recover import RecoveryContext, UnitStep, iterate_units
from mixmix.graph.layer_moments import (
    LayerMoments,
    captured_calls,
    from_grouped_rows,
    grouped_rows,
    measure_moments,
)
from mixmix.graph.masks import Pattern, keep_largest, keep_n_of_m, set_zeros
from mixmix.runtime import seeding

__all__ = ["CRITERIA", "Plan", "prunable_layers", "prune_"]

CRITERIA = ("magnitude", "wanda", "obs")
_TINY = 1e-12
# Most positions of all images that moments are taken of, and images that increases are measured on.
_POSITIONS = 2**17
_JUDGES = 128
_LAMP_POWERS = {"lamp": 1.0, "sqrt-lamp": 0.5}
_DENSITIES = (1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)


@dataclass(frozen=True)
class Plan:
    """How to prune.

    Attributes:
        density: fraction of the prunable weights that are kept, where the pattern has no groups.
        pattern: where zeros may be.
        criterion: one of ``CRITERIA``.
        allocation: one of ``sparsity_allocation.ALLOCATIONS``.
        damping: see ``obs.prune_rows``.
    """

    density: float
    pattern: Pattern
    criterion: str
    allocation: str
    damping: float


def prunable_layers(
    context: RecoveryContext, pattern: Pattern, *, skipped: Collection[str]
) -> tuple[list[str], dict[str, str]]:
    """The layers that can be pruned, and why the others cannot.

    Args:
        context: the student's layers are looked at.
        pattern: that has to fit their weights.
        skipped: names of layers that are to stay as they are.
    """
    reasons = {}
    for name, layer in context.student.layers.items():
        if name in skipped:
            reasons[name] = "stays dense as asked for"
        elif isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
            reasons[name] = "depthwise: few weights, each of which is a filter's own"
        elif not pattern.fits(layer.weight):
            reasons[name] = (
                f"{layer.weight.shape[1]} input channels are not in groups of {pattern.m}"
            )
    return [name for name in context.student.layers if name not in reasons], reasons


def prune_(
    context: RecoveryContext, names: Collection[str], plan: Plan, *, on_progress: Progress
) -> dict[str, Tensor]:
    """Prune the student in place.

    Returns:
        Masks by the names of weights, True where they are kept.
    """
    scores = _scores(context, names, plan, on_progress=on_progress)
    counts = (
        {name: round(plan.pattern.n / plan.pattern.m * s.numel()) for name, s in scores.items()}
        if plan.pattern.is_grouped
        else _counts(context, scores, plan, on_progress=on_progress)
    )
    if plan.criterion == "obs":
        return _prune_in_turn(context, counts, plan, on_progress=on_progress)
    masks = {}
    for name, score in scores.items():
        layer = context.student.layers[name]
        if plan.pattern.is_grouped:
            mask = keep_n_of_m(score, plan.pattern.n, plan.pattern.m)
        elif plan.criterion == "wanda":
            mask = _keep_of_each_row(score, counts[name])
        else:
            mask = keep_largest(score, counts[name])
        mask &= score >= 0
        rows = mask.view_as(grouped_rows(layer, layer.weight))
        masks[context.student.weight_names[name]] = from_grouped_rows(layer, rows)
    set_zeros(context.student.module, masks)
    return masks


def _keep_of_each_row(scores: Tensor, num_kept: int) -> Tensor:
    """The largest of each row (rows, d), as many of all but for one more in some."""
    least, more = divmod(num_kept, len(scores))
    order = scores.argsort(dim=1, descending=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    )
    mask = rank < least
    if more:
        # The next of each row compete for what is left.
        mask |= keep_largest(scores.masked_fill(rank != least, -torch.inf), more)
    return mask


def _scores(
    context: RecoveryContext, names: Collection[str], plan: Plan, *, on_progress: Progress
) -> dict[str, Tensor]:
    """Scores (out, d) of the weights of each layer; negative where they are pruned already."""
    scores = {}
    weigh = plan.criterion != "magnitude"
    with context.store() as store:
        for unit_step in iterate_units(context, store) if weigh else ():
            for name in unit_step.pair.student.layers:
                if name in names:
                    moments = _moments(name, unit_step, context, batch_size=store.batch_size)
                    scores[name] = _weighed(context.student.layers[name], moments)
            on_progress("weighing weights", (unit_step.index + 1) / len(context.pairs))
    if not weigh:
        for name in names:
            layer = context.student.layers[name]
            scores[name] = grouped_rows(layer, layer.weight).abs().flatten(0, 1)
    for name, score in scores.items():
        pruned = _pruned_mask(context, name)
        if pruned is not None:
            scores[name] = score.masked_fill(pruned, -1.0)
    return {name: scores[name] for name in names}


def _weighed(layer: nn.Conv2d | nn.Linear, moments: LayerMoments) -> Tensor:
    """Wanda's ``|w| * || x ||`` (Sun et al. 2023), relative to the spread of the row's output."""
    rows = grouped_rows(layer, layer.weight)
    centered = moments.centered().gram
    spread = ((rows @ centered) * rows).sum(-1, keepdim=True).clamp_min(_TINY).sqrt()
    norms = moments.gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    return (rows.abs() * norms[:, None] / spread).flatten(0, 1)


def _pruned_mask(context: RecoveryContext, name: str) -> Tensor | None:
    """(out, d) True where weights were pruned before."""
    mask = context.masks.get(context.student.weight_names[name])
    layer = context.student.layers[name]
    return None if mask is None else ~grouped_rows(layer, mask).flatten(0, 1)


def _moments(
    name: str, unit_step: UnitStep, context: RecoveryContext, *, batch_size: int
) -> LayerMoments:
    def calls() -> Iterator[tuple[Tensor, None]]:
        unit = unit_step.pair.student.module
        with captured_calls(unit.get_submodule(name)) as found:
            for batch in unit_step.inputs.split(batch_size):
                with torch.no_grad():
                    unit(batch.to(context.device))
                yield from ((x, None) for x, _ in found)
                found.clear()

    return measure_moments(
        context.student.layers[name],
        calls(),
        positions=max(1, _POSITIONS // len(unit_step.inputs)),
        generator=seeding.generator(context.seed, "moments", name),
    )


def _counts(
    context: RecoveryContext, scores: dict[str, Tensor], plan: Plan, *, on_progress: Progress
) -> dict[str, int]:
    """How many weights each layer keeps."""
    sizes = {name: score.numel() for name, score in scores.items()}
    if plan.allocation == "uniform":
        return allocate_evenly(sizes, plan.density)
    if plan.allocation == "global":
        return allocate_by_rank(scores, plan.density)
    if plan.allocation in _LAMP_POWERS:
        power = _LAMP_POWERS[plan.allocation]
        alike = {n: lamp_scores(score.clamp_min(0), power=power) for n, score in scores.items()}
        return allocate_by_rank(alike, plan.density)
    increases = _measure_increases(context, scores, on_progress=on_progress)
    return allocate_by_increase(increases, _DENSITIES, sizes, plan.density)


@torch.no_grad()
def _measure_increases(
    context: RecoveryContext, scores: dict[str, Tensor], *, on_progress: Progress
) -> dict[str, list[float]]:
    """Mean divergence of the predictions with each layer pruned alone, for each density."""
    units = [pair.student.module for pair in context.pairs]
    order = torch.randperm(
        len(context.data), generator=seeding.generator(context.seed, "sensitivity")
    )
    inputs = [context.prepared(context.data.images[order[:_JUDGES]])]
    for unit in units:
        inputs.append(unit(inputs[-1]))
    logits = inputs.pop()
    increases: dict[str, list[float]] = {}
    for index, pair in enumerate(context.pairs):
        for name in pair.student.layers:
            if name not in scores:
                continue
            layer = context.student.layers[name]
            dense = layer.weight.clone()
            increases[name] = [0.0]
            for density in _DENSITIES[1:]:
                mask = keep_largest(scores[name], max(1, round(density * scores[name].numel())))
                rows = mask.view_as(grouped_rows(layer, dense))
                layer.weight.mul_(from_grouped_rows(layer, rows))
                x = inputs[index]
                for unit in units[index:]:
                    x = unit(x)
                layer.weight.copy_(dense)
                increases[name].append(mean_divergence(logits, x))
            on_progress("measuring sensitivity", len(increases) / len(scores))
    return increases


def _prune_in_turn(
    context: RecoveryContext, counts: dict[str, int], plan: Plan, *, on_progress: Progress
) -> dict[str, Tensor]:
    """One layer after another, each for what enters it behind those that are pruned already."""
    masks = {}
    with context.store() as store:
        for unit_step in iterate_units(context, store):
            for name in unit_step.pair.student.layers:
                if name not in counts:
                    continue
                layer = context.student.layers[name]
                gram = _moments(name, unit_step, context, batch_size=store.batch_size).gram
                rows, pruned_mask = grouped_rows(layer, layer.weight), _pruned_mask(context, name)
                masks_of_groups = (
                    [None] * len(rows) if pruned_mask is None else pruned_mask.view_as(rows)
                )
                pruned = [
                    prune_rows(
                        part,
                        moments,
                        sparsity=1 - counts[name] / rows.numel(),
                        pattern=plan.pattern,
                        damping=plan.damping,
                        already_pruned=mask,
                    )
                    for part, moments, mask in zip(rows, gram, masks_of_groups, strict=True)
                ]
                weights, mask = (torch.stack(parts) for parts in zip(*pruned, strict=True))
                with torch.no_grad():
                    layer.weight.copy_(from_grouped_rows(layer, weights))
                masks[context.student.weight_names[name]] = from_grouped_rows(layer, mask)
            on_progress("pruning", (unit_step.index + 1) / len(context.pairs))
    return masks
