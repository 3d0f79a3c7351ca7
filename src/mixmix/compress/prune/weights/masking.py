"""Masks of the weights of a network: criteria, allocation and the choice in each layer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixmix.compress.method import Progress
from mixmix.compress.prune.weights.allocation import allocate_by_rank, lamp_scores
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

__all__ = ["CRITERIA", "MaskSettings", "prunable_layers", "prune_"]

CRITERIA = ("magnitude", "wanda", "obs")
_TINY = 1e-12
# Most positions, over all images, that moments are measured on.
_POSITIONS = 2**17
_LAMP_POWERS = {"lamp": 1.0, "sqrt-lamp": 0.5}


@dataclass(frozen=True)
class MaskSettings:
    """How to choose masks.

    Attributes:
        density: fraction of the prunable weights to keep, unless the pattern has groups.
        pattern: positions that zeros may have.
        criterion: one of ``CRITERIA``.
        allocation: one of ``allocation.ALLOCATIONS``.
    """

    density: float
    pattern: Pattern
    criterion: str
    allocation: str


def prunable_layers(
    context: RecoveryContext, pattern: Pattern, *, skipped: Collection[str]
) -> tuple[list[str], dict[str, str]]:
    """Names of the student's prunable layers, and why the others are not prunable, by name."""
    reasons = {}
    for name, layer in context.student.layers.items():
        owner = context.student.weight_owner(name)
        if name in skipped:
            reasons[name] = "stays dense as requested"
        elif owner != name:
            reasons[name] = f"its weights are those of {owner}"
        elif isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
            reasons[name] = "depthwise convolutions stay dense: each filter has few weights"
        elif not pattern.fits(layer.weight):
            reasons[name] = (
                f"{layer.weight.shape[1]} input channels are not in groups of {pattern.m}"
            )
    return [name for name in context.student.layers if name not in reasons], reasons


def prune_(
    context: RecoveryContext,
    names: Collection[str],
    settings: MaskSettings,
    *,
    on_progress: Progress,
) -> dict[str, Tensor]:
    """Prune some of the student's layers in place.

    Returns:
        Masks by the names of weights, False where they are pruned.
    """
    pattern = settings.pattern
    scores = _scores(context, names, settings, on_progress=on_progress)
    if pattern.is_grouped:
        counts = {name: round(pattern.n / pattern.m * s.numel()) for name, s in scores.items()}
    elif settings.allocation in _LAMP_POWERS:
        power = _LAMP_POWERS[settings.allocation]
        relative = {n: lamp_scores(score.clamp_min(0), power=power) for n, score in scores.items()}
        counts = allocate_by_rank(relative, settings.density)
    else:
        counts = allocate_by_rank(scores, settings.density)
    if settings.criterion == "obs":
        return _prune_sequentially(context, counts, settings, on_progress=on_progress)
    masks = {}
    for name, score in scores.items():
        layer = context.student.layers[name]
        if pattern.is_grouped:
            mask = keep_n_of_m(score, pattern.n, pattern.m)
        elif settings.criterion == "wanda":
            mask = _keep_of_each_row(score, counts[name])
        else:
            mask = keep_largest(score, counts[name])
        mask &= score >= 0
        rows = mask.view_as(grouped_rows(layer, layer.weight))
        masks[context.student.weight_names[name]] = from_grouped_rows(layer, rows)
    set_zeros(context.student.module, masks)
    return masks


def _keep_of_each_row(scores: Tensor, count: int) -> Tensor:
    """A mask of the largest scores of each row (rows, d), whose counts differ by at most one."""
    least, more = divmod(count, len(scores))
    order = scores.argsort(dim=1, descending=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    )
    mask = rank < least
    if more:
        mask |= keep_largest(scores.masked_fill(rank != least, -torch.inf), more)
    return mask


def _scores(
    context: RecoveryContext,
    names: Collection[str],
    settings: MaskSettings,
    *,
    on_progress: Progress,
) -> dict[str, Tensor]:
    """Scores (out, d) of each layer's weights; negative for weights pruned before."""
    layers, scores = context.student.layers, {}
    if settings.criterion == "magnitude":
        for name in names:
            scores[name] = grouped_rows(layers[name], layers[name].weight).abs().flatten(0, 1)
    else:
        with context.store() as store:
            for unit_step in iterate_units(context, store):
                for name in unit_step.pair.student.layers:
                    if name in names:
                        moments = _moments(name, unit_step, context, batch_size=store.batch_size)
                        scores[name] = _wanda_scores(layers[name], moments)
                on_progress("scoring weights", (unit_step.index + 1) / len(context.pairs))
    for name, score in scores.items():
        pruned = _pruned_before(context, name)
        if pruned is not None:
            scores[name] = score.masked_fill(pruned, -1.0)
    return {name: scores[name] for name in names}


def _wanda_scores(layer: nn.Conv2d | nn.Linear, moments: LayerMoments) -> Tensor:
    """Wanda's ``|w| * || x ||`` (Sun et al. 2023), relative to the spread of the row's output."""
    rows = grouped_rows(layer, layer.weight)
    centered = moments.centered().gram
    spread = ((rows @ centered) * rows).sum(-1, keepdim=True).clamp_min(_TINY).sqrt()
    norms = moments.gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    return (rows.abs() * norms[:, None] / spread).flatten(0, 1)


def _pruned_before(context: RecoveryContext, name: str) -> Tensor | None:
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


def _prune_sequentially(
    context: RecoveryContext,
    counts: dict[str, int],
    settings: MaskSettings,
    *,
    on_progress: Progress,
) -> dict[str, Tensor]:
    """Prune layer by layer by ``obs``, each on the outputs of the layers pruned before it."""
    masks = {}
    with context.store() as store:
        for unit_step in iterate_units(context, store):
            for name in unit_step.pair.student.layers:
                if name not in counts:
                    continue
                layer = context.student.layers[name]
                gram = _moments(name, unit_step, context, batch_size=store.batch_size).gram
                rows, before = grouped_rows(layer, layer.weight), _pruned_before(context, name)
                parts = [
                    prune_rows(
                        part,
                        moments,
                        sparsity=1 - counts[name] / rows.numel(),
                        pattern=settings.pattern,
                        already_pruned=None if before is None else before.view_as(rows)[group],
                    )
                    for group, (part, moments) in enumerate(zip(rows, gram, strict=True))
                ]
                weights, mask = (torch.stack(each) for each in zip(*parts, strict=True))
                with torch.no_grad():
                    layer.weight.copy_(from_grouped_rows(layer, weights))
                masks[context.student.weight_names[name]] = from_grouped_rows(layer, mask)
            on_progress("pruning", (unit_step.index + 1) / len(context.pairs))
    return masks
