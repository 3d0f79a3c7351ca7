"""Pruning in stages: an interrupted run continues after the last stage that it finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from mixmix.compress.recover.recover import RecoveryContext
from mixmix.compress.train.checkpoint import claim_training, read_checkpoint
from mixmix.runtime import distributed
from mixmix.runtime.storage import sha256_of_tensors, tensors_below, write_tensors

__all__ = ["Stage", "run_stages"]

# Changes the student in place; returns the context with the masks after this stage.
Stage = Callable[[RecoveryContext], RecoveryContext]
_MASK, _STUDENT = "mask.", "student."


def run_stages(
    stages: Sequence[Stage],
    context: RecoveryContext,
    teacher: nn.Module,
    *,
    settings: Mapping[str, Any],
    out: str | Path | None,
) -> RecoveryContext:
    """Run all stages that the checkpoint in ``out`` does not contain; each seeds its own draws.

    Raises:
        InputError: if the folder holds a run of other settings, data or networks.
    """
    if out is None:
        for stage in stages:
            context = stage(context)
        return context
    folder, student = Path(out), context.student.module
    run = {
        "settings": dict(settings),
        "seed": context.seed,
        "masks": sha256_of_tensors(context.masks),
    }
    path = folder / "pruning.json"
    with claim_training(path, run, student, teacher, context.data, context.spec) as identifier:
        found = read_checkpoint(folder, identifier)
        done = 0
        if found is not None:
            tensors, metadata = found
            done = int(metadata["stages_done"])
            student.load_state_dict(tensors_below(_STUDENT, tensors))
            masks = tensors_below(_MASK, tensors)
            masks = {name: mask.to(context.device) for name, mask in masks.items()}
            context = replace(context, masks=masks)
        for number, stage in enumerate(stages[done:], start=done + 1):
            context = stage(context)
            if distributed.is_main():
                tensors = {_STUDENT + name: t.clone() for name, t in student.state_dict().items()}
                tensors |= {_MASK + name: mask for name, mask in context.masks.items()}
                about = {"stages_done": str(number), "run": identifier}
                write_tensors(folder / "checkpoint.safetensors", tensors, about)
    return context
