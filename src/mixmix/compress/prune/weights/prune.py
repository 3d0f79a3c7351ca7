"""Pruning of single weights on synthetic images, anywhere or N of every M."""

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

from mixmix.compress.method import Compressed, LayerRecord, Method, Progress, with_channels
from mixmix.compress.prune.checkpointed import Stage, run_stages
from mixmix.compress.prune.weights.allocation import ALLOCATIONS
from mixmix.compress.prune.weights.plan import CRITERIA, Plan, prunable_layers, prune_
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

# Least fraction that a round leaves of the weights that were left, unless rounds are given.
_LEFT_BY_ROUND = 0.6
# Between rounds: what is pruned next is chosen among weights that have adapted.
_QUICK = ReconstructFeatures(iterations=60)
_STEPS_BETWEEN = 0.25


@dataclass(frozen=True)
class Prune(Method):
    """Set weights of convolutions and linear layers to zero, and let the others make up for it.

    The result is a copy of the model with the same parameters by the same names. Depthwise
    convolutions stay dense. The results hold the ``allocation`` and the sparsity of every pruned
    layer (``layer_sparsity``).

    Attributes:
        sparsity: fraction of the prunable weights that become zero, of all layers together. N:M has
            a sparsity of its own.
        pattern: ``unstructured``, or ``N:M``: of every M input channels at one place of a kernel
            (M values of a linear layer's input) at most N have weights other than zero, for each
            output. Layers whose input channels are not in whole groups stay dense.
        criterion: what a weight counts. ``magnitude``: its own size. ``wanda``: that times the
            size of what it is multiplied with, within each row of outputs (Sun et al. 2023).
            ``obs``: what its removal costs if the others are adapted, which they are (SparseGPT,
            Frantar & Alistarh 2023).
        allocation: how many weights each layer keeps, where zeros may be anywhere. ``uniform``:
            the same fraction. ``global``: those above one threshold for all layers; of scores that
            are relative to the spread of a layer's outputs, unless they are magnitudes. ``lamp``:
            the same for scores relative to what is left of their layer (Lee et al. 2021).
            ``sqrt-lamp``: for the geometric mean of both. ``sensitivity``: as many as leave the
            predictions as they are, by the divergence that each layer causes when it is pruned
            alone. None takes ``global`` in rounds, where what is left of a layer grows as it
            makes up for the rest, and ``sqrt-lamp`` at once.
        skip: names of layers that stay dense and do not count.
        damping: of the Hessian, relative to the mean of its diagonal, for ``obs``.
        rounds: steps in which the zeros become more; what is pruned late is chosen among weights
            that have made up for the rest. None takes as many as leave at least 0.6 of what was
            left before (4 for 80%, 5 for 90%) where features are reconstructed in the end, else
            one.
        between: one, or several, to apply after every round but the last. None reconstructs
            features in fewer iterations, and fine-tunes in a quarter of the steps where
            ``recovery`` fine-tunes, without making images.
        recovery: one, or several to apply in order, at the end; ``()`` for none.
        checkpoints: a folder for checkpoints, from which the same call goes on, or None.

    Raises:
        InputError: if a setting is out of range.
    """

    kind: ClassVar[str] = "prune"

    sparsity: float = 0.8
    pattern: str = "unstructured"
    criterion: str = "magnitude"
    allocation: str | None = None
    skip: tuple[str, ...] = ()
    damping: float = 1e-2
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
        if not self.damping > 0:
            raise InputError(f"damping must be positive, got {self.damping!r}")
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
        """The field's short name: ``2:4``, or ``unstructured-80``."""
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
        # Behind channels or blocks that were removed a network is its own teacher, which did better
        # than the whole one.
        teacher = model.module if model.dense is None else model.dense
        student = copy.deepcopy(model.module).eval().requires_grad_(False)
        context = recovery_context(student, teacher, data, model.spec, masks=model.masks, seed=seed)
        check_layer_names(self.skip, list(context.student.layers))
        pattern = Pattern.parse(self.pattern)
        names, reasons = prunable_layers(context, pattern, skipped=self.skip)
        if not names:
            why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise InputError(
                f"{model.spec.name} has no layer to prune: {why or 'it has none at all'}"
            )
        context = run_stages(
            self._stages(context, names, pattern, on_progress),
            context,
            teacher,
            settings=self.to_dict(),
            out=self.checkpoints,
        )
        records = with_channels(_record(context, reasons), model.records)
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

    def _stages(
        self,
        context: RecoveryContext,
        names: Collection[str],
        pattern: Pattern,
        on_progress: Progress,
    ) -> list[Stage]:
        """Zeros and what follows on them, round by round."""
        stages: list[Stage] = []
        plans = list(self._plans(pattern, left=_fraction_left(context, names)))
        for number, plan in enumerate(plans, start=1):
            tell = on_progress if len(plans) == 1 else _in_round(number, len(plans), on_progress)
            stages.append(partial(_prune, names=names, plan=plan, on_progress=tell))
            recoveries = as_recoveries(self.recovery) if number == len(plans) else self._between()
            stages.extend(partial(_recover, recovery=r, on_progress=tell) for r in recoveries)
        return stages

    @property
    def _in_rounds(self) -> bool:
        """Whether zeros become more while the others make up for them, and not at once."""
        if self.rounds is not None:
            return self.rounds > 1
        return any(step.adapts_units for step in as_recoveries(self.recovery))

    @property
    def chosen_allocation(self) -> str:
        """``allocation``, or what None stands for."""
        return self.allocation or ("global" if self._in_rounds else "sqrt-lamp")

    def _between(self) -> tuple[Recovery, ...]:
        """What follows on every round but the last."""
        if self.between is not None:
            return as_recoveries(self.between)
        shorter = (step.shortened(_STEPS_BETWEEN) for step in as_recoveries(self.recovery))
        return (_QUICK, *(step for step in shorter if step is not None))

    def _plans(self, pattern: Pattern, *, left: float) -> Iterator[Plan]:
        """What to keep in every round, each time the same fraction of what is left by then."""
        density = 1 - self.sparsity
        ratio = min(1.0, density / left)
        rounds = self.rounds or 1
        if self.rounds is None and self._in_rounds:
            rounds = max(1, math.ceil(math.log(ratio) / math.log(_LEFT_BY_ROUND) - 1e-9))
        kept = pattern.m
        for number in range(1, rounds + 1):
            now = density * ratio ** (number / rounds - 1)
            if pattern.is_grouped:
                fewer = math.ceil(now * pattern.m - 1e-9)
                if fewer == kept:
                    continue
                kept = fewer
            yield Plan(
                now,
                replace(pattern, n=kept) if pattern.is_grouped else pattern,
                self.criterion,
                self.chosen_allocation,
                self.damping,
            )


def _fraction_left(context: RecoveryContext, names: Collection[str]) -> float:
    """Of the weights of some layers, before anything is pruned now."""
    weights = [context.student.weight_names[name] for name in names]
    total = sum(context.student.layers[name].weight.numel() for name in names)
    pruned = sum(int((~context.masks[w]).sum()) for w in weights if w in context.masks)
    return max(1, total - pruned) / total


def _prune(
    context: RecoveryContext, *, names: Collection[str], plan: Plan, on_progress: Progress
) -> RecoveryContext:
    masks = dict(context.masks) | prune_(context, names, plan, on_progress=on_progress)
    return replace(context, masks=masks)


def _recover(
    context: RecoveryContext, *, recovery: Recovery, on_progress: Progress
) -> RecoveryContext:
    recover_(context, recovery, on_progress=on_progress)
    return context


def _in_round(number: int, rounds: int, on_progress: Progress) -> Progress:
    """Say which round it is."""
    return lambda what, fraction: on_progress(f"round {number} of {rounds}: {what}", fraction)


@torch.no_grad()
def _record(context: RecoveryContext, reasons: dict[str, str]) -> tuple[LayerRecord, ...]:
    """A record of every module with parameters."""
    errors = unit_errors(*chains_of(context.pairs), context.data.images, context.prepared)
    records = []
    held: dict[str, list[str]] = {}
    for layer, weight_name in context.student.weight_names.items():
        held.setdefault(weight_name.rpartition(".")[0], []).append(layer)
    for name, module in context.student.module.named_modules():
        parameters = dict(module.named_parameters(recurse=False))
        if not parameters:
            continue
        kind = type(module).__name__
        count = sum(p.numel() for p in parameters.values())
        record = LayerRecord(name, kind, "skipped", num_parameters=count)
        layers = held.get(name, [])
        masks = [
            context.masks[context.student.weight_names[layer]]
            for layer in layers
            if context.student.weight_names[layer] in context.masks
        ]
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
            record = replace(record, reason=reason or _reason(module, kind))
        records.append(record)
    return tuple(records)


def _reason(module: nn.Module, kind: str) -> str:
    if isinstance(module, nn.Conv2d | nn.Linear):
        return "not called as a layer in the forward pass"
    return f"{kind} has no weights that are pruned: only those of Conv2d and Linear layers are"
