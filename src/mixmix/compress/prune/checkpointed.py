"""Pruning stage by stage: a run that was interrupted goes on behind the last stage it finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mixmix.compress.recover.recover import RecoveryContext
from mixmix.compress.train.checkpoint import claim_folder
from mixmix.runtime import distributed
from mixmix.runtime.storage import read_tensors, tensors_below, write_tensors

__all__ = ["Stage", "run_stages"]

# Changes the student of a context in place; gives the context with the masks that it has then.
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
    """Run what was not run yet.

    Args:
        stages: in order; each draws its random numbers by itself.
        context: before the first of them.
        teacher: what the student learns from.
        settings: in plain JSON types; a folder is for one run of them.
        out: folder for a checkpoint after every stage, or None.

    Raises:
        InputError: if the folder holds another run.
    """
    if out is None:
        for stage in stages:
            context = stage(context)
        return context
    folder, student = Path(out), context.student.module
    run = {"settings": dict(settings), "seed": context.seed}
    claim = partial(claim_folder, folder / "pruning.json", run, student, teacher, context.data)
    distributed.from_main(claim)
    path, done = folder / "checkpoint.safetensors", 0
    if distributed.from_main(path.exists):
        tensors, metadata = read_tensors(path)
        done = int(metadata["stages_done"])
        student.load_state_dict(tensors_below(_STUDENT, tensors))
        device = context.device
        masks = {name: mask.to(device) for name, mask in tensors_below(_MASK, tensors).items()}
        context = replace(context, masks=masks)
    for number, stage in enumerate(stages[done:], start=done + 1):
        context = stage(context)
        if distributed.is_main():
            tensors = {_STUDENT + name: t.clone() for name, t in student.state_dict().items()}
            tensors |= {_MASK + name: mask for name, mask in context.masks.items()}
            write_tensors(path, tensors, {"stages_done": str(number)})
    return context
