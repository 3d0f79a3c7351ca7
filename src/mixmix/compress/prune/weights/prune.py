"""Pruning of single weights, unstructured or N:M."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from mixmix._settings import identify
from mixmix.compress.method import (
    Compressed,
    LayerRecord,
    Method,
    Progress,
    skipped_layers,
    with_channels,
)
from mixmix.compress.prune.checkpointed import Stage, run_stages
from mixmix.compress.prune.weights.allocation import ALLOCATIONS
from mixmix.compress.prune.weights.masking import (
    CRITERIA,
    MaskSettings,
    prunable_layers,
    prune_,
)
from mixmix.compress.recover.features import ReconstructFeatures
from mixmix.compress.recover.fine_tuning import FineTune
from mixmix.compress.recover.recover import (
    Recovery,
    RecoveryContext,
    as_recoveries,
    recover_,
    recovery_context,
)
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.graph.layers import check_layer_names
from mixmix.graph.masks import Pattern, refuse_quantized
from mixmix.graph.unit_pairs import chains_of, unit_errors

__all__ = ["Prune"]

# By default, a round keeps at least this fraction of the remaining weights.
_KEPT_BY_ROUND = 0.6
# Default recovery between rounds: quick, but the next round sees adapted weights.
_QUICK = ReconstructFeatures(iterations=60)
_STEPS_BETWEEN = 0.25


@dataclass(frozen=True)
class Prune(Method):
    """Set weights of convolutions and linear layers to zero, and recover.

    The result is a copy of the model with the same parameter names. Depthwise convolutions stay
    dense. The results contain the ``allocation`` and the sparsity of every pruned layer
    (``layer_sparsity``).

    Attributes:
        sparsity: fraction of zeros among the prunable weights of all layers, in (0, 1); implied by
            N:M patterns.
        pattern: ``unstructured``, or ``N:M``: of every M input channels at one position of a kernel
            (M inputs of a linear layer) at most N have nonzero weights, for each output. Layers
            whose input channels cannot be divided into groups of M stay dense.
        criterion: saliency of a weight. ``magnitude`` is its absolute value. ``wanda`` is that
            times the norm of its input, compared within each output's weights (Sun et al. 2023).
            ``obs`` is the loss increase of pruning it, and updates the other weights to compensate
            (SparseGPT, Frantar & Alistarh 2023).
        allocation: how many weights each layer keeps, for unstructured zeros. ``global`` applies
            one threshold to the saliencies of all layers, ``lamp`` to saliencies relative to the
            remaining weights of their layer (Lee et al. 2021), ``sqrt-lamp`` to the geometric mean
            of both. By default, ``global`` in several rounds, ``sqrt-lamp`` in one.
        skip: names of layers that stay dense and do not count.
        rounds: number of rounds in which sparsity increases; each prunes weights that have adapted
            to the previous round. By default, one round, or, if ``recovery`` reconstructs features,
            as many rounds as keep at least 0.6 of the remaining weights each (4 for 80% sparsity, 5
            for 90%).
        between: one recovery, or several to apply in order, after every round but the last. None
            reconstructs features in fewer iterations, and fine-tunes in a quarter of the steps if
            ``recovery`` does, without making images.
        recovery: one recovery, several to apply in order, or ``()`` for none, after the last round.
        checkpoints: folder for checkpoints, from which an interrupted run resumes.

    Raises:
        InputError: if a setting is out of range.

    Example::

        >>> import mixmix, torch
        >>> images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> pruned = mixmix.compress("bundled:resnet", images, mixmix.Prune(0.9, recovery=()))
        >>> round(sum(int((~m).sum()) for m in pruned.masks.values())
        ...     / sum(m.numel() for m in pruned.masks.values()), 2)
        0.9
    """

    kind: ClassVar[str] = "prune"

    sparsity: float = 0.8
    pattern: str = "unstructured"
    criterion: str = "magnitude"
    allocation: str | None = None
    skip: tuple[str, ...] = ()
    rounds: int | None = None
    between: Recovery | Sequence[Recovery] | None = None
    recovery: Recovery | Sequence[Recovery] = field(default=(ReconstructFeatures(), FineTune()))
    checkpoints: str | Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        pattern = Pattern.parse(self.pattern)
        if pattern.is_grouped:
            object.__setattr__(self, "sparsity", pattern.sparsity)
        if not 0 < self.sparsity < 1:
            raise InputError(f"sparsity must be in (0, 1), got {self.sparsity!r}")
        if self.rounds is not None and not (isinstance(self.rounds, int) and self.rounds >= 1):
            raise InputError(f"rounds must be a whole number >= 1 or None, got {self.rounds!r}")
        for name, given, known in (
            ("criterion", self.criterion, CRITERIA),
            ("allocation", self.chosen_allocation, ALLOCATIONS),
        ):
            if given not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {given!r}")
        object.__setattr__(self, "skip", tuple(self.skip))
        object.__setattr__(self, "recovery", as_recoveries(self.recovery))
        if self.between is not None:
            object.__setattr__(self, "between", as_recoveries(self.between))

    @property
    def setting(self) -> str:
        """A short name for tables: ``2:4``, or ``unstructured-80``."""
        if Pattern.parse(self.pattern).is_grouped:
            return self.pattern
        return f"unstructured-{100 * self.sparsity:g}"

    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Prune a copy of the model.

        Raises:
            CaptureError: if the model cannot be captured as a graph.
            InputError: if it is quantized, or has no layer that can be pruned.
        """
        refuse_quantized(model.module, model.spec.name)
        # After channels or blocks were pruned, the smaller dense network is a better teacher than
        # the original.
        teacher = model.module if model.dense is None else model.dense
        student = copy.deepcopy(model.module).eval().requires_grad_(False)
        context = recovery_context(student, teacher, data, model.spec, masks=model.masks, seed=seed)
        check_layer_names(self.skip, list(context.student.layers))
        pattern = Pattern.parse(self.pattern)
        names, reasons = prunable_layers(context, pattern, skipped=self.skip)
        if not names:
            why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise InputError(
                f"{model.spec.name} has no layer to prune: {why or 'it has no layers'}"
            )
        context = run_stages(
            self._stages(context, names, pattern, on_progress),
            context,
            teacher,
            settings=identify(self),
            out=self.checkpoints,
        )
        records = with_channels(_records(context, reasons), model.records)
        pruned = {r.name: r.sparsity for r in records if r.sparsity is not None}
        return model.with_method(
            self,
            {"allocation": self.chosen_allocation, "layer_sparsity": pruned},
            module=student,
            records=records,
            masks=context.masks,
            original=model.module if model.original is None else model.original,
            dense=teacher,
        )

    @property
    def _in_rounds(self) -> bool:
        if self.rounds is not None:
            return self.rounds > 1
        return any(step.adapts_units for step in as_recoveries(self.recovery))

    @property
    def chosen_allocation(self) -> str:
        """``allocation``, or the default if it is None."""
        return self.allocation or ("global" if self._in_rounds else "sqrt-lamp")

    def _stages(
        self,
        context: RecoveryContext,
        names: Collection[str],
        pattern: Pattern,
        on_progress: Progress,
    ) -> list[Stage]:
        """The pruning and recoveries of all rounds."""
        stages: list[Stage] = []
        rounds = list(self._mask_settings(pattern, kept=_kept_fraction(context, names)))
        for number, settings in enumerate(rounds, start=1):
            progress = on_progress
            if len(rounds) > 1:
                progress = _with_prefix(f"round {number} of {len(rounds)}", on_progress)
            stages.append(partial(_prune, names=names, settings=settings, on_progress=progress))
            recoveries = as_recoveries(self.recovery) if number == len(rounds) else self._between()
            stages.extend(partial(_recover, recovery=r, on_progress=progress) for r in recoveries)
        return stages

    def _between(self) -> tuple[Recovery, ...]:
        if self.between is not None:
            return as_recoveries(self.between)
        shorter = (step.shortened(_STEPS_BETWEEN) for step in as_recoveries(self.recovery))
        return (_QUICK, *(step for step in shorter if step is not None))

    def _mask_settings(self, pattern: Pattern, *, kept: float) -> Iterator[MaskSettings]:
        """The settings of each round; all rounds keep the same fraction of the remaining weights.

        ``kept`` is the fraction of the weights that are not pruned yet.
        """
        density = 1 - self.sparsity
        ratio = min(1.0, density / kept)
        rounds = self.rounds or 1
        if self.rounds is None and self._in_rounds:
            rounds = max(1, math.ceil(math.log(ratio) / math.log(_KEPT_BY_ROUND) - 1e-9))
        n = pattern.m
        for number in range(1, rounds + 1):
            now = density * ratio ** (number / rounds - 1)
            if pattern.is_grouped:
                smaller = math.ceil(now * pattern.m - 1e-9)
                if smaller == n:
                    continue
                n = smaller
            yield MaskSettings(
                now,
                replace(pattern, n=n) if pattern.is_grouped else pattern,
                self.criterion,
                self.chosen_allocation,
            )


def _kept_fraction(context: RecoveryContext, names: Collection[str]) -> float:
    """Fraction of the weights of some layers that are not pruned yet."""
    weights = [context.student.weight_names[name] for name in names]
    total = sum(context.student.layers[name].weight.numel() for name in names)
    pruned = sum(int((~context.masks[w]).sum()) for w in weights if w in context.masks)
    return max(1, total - pruned) / total


def _prune(
    context: RecoveryContext,
    *,
    names: Collection[str],
    settings: MaskSettings,
    on_progress: Progress,
) -> RecoveryContext:
    masks = prune_(context, names, settings, on_progress=on_progress)
    return replace(context, masks=dict(context.masks) | masks)


def _recover(
    context: RecoveryContext, *, recovery: Recovery, on_progress: Progress
) -> RecoveryContext:
    recover_(context, recovery, on_progress=on_progress)
    return context


def _with_prefix(prefix: str, on_progress: Progress) -> Progress:
    return lambda what, fraction: on_progress(f"{prefix}: {what}", fraction)


@torch.no_grad()
def _records(context: RecoveryContext, reasons: dict[str, str]) -> tuple[LayerRecord, ...]:
    """A record of every module with parameters."""
    errors = unit_errors(*chains_of(context.pairs), context.data.images, context.prepared)
    records = []
    layers_of: dict[str, list[str]] = {}
    for layer, weight_name in context.student.weight_names.items():
        layers_of.setdefault(weight_name.rpartition(".")[0], []).append(layer)
    for module, record in skipped_layers(context.student.module):
        own = [record.name] if record.name in context.student.layers else []
        layers = layers_of.get(record.name, own)
        weights = [context.student.weight_names[layer] for layer in layers]
        masks = [context.masks[weight] for weight in weights if weight in context.masks]
        if masks:
            zeros = sum(int((~mask).sum()) for mask in masks)
            record = replace(
                record,
                action="pruned",
                sparsity=zeros / sum(mask.numel() for mask in masks),
                error=errors.get(layers[0]),
            )
        else:
            reason = next((reasons[layer] for layer in layers if layer in reasons), None)
            record = replace(record, reason=reason or _reason(module))
        records.append(record)
    return tuple(records)


def _reason(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d | nn.Linear):
        return "not called as a layer in the forward pass"
    return (
        f"only weights of Conv2d and Linear layers are pruned, not those of {type(module).__name__}"
    )
