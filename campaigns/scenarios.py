"""Small runs of the library, each in a folder, and processes forked for them.

A forked process starts in milliseconds, where to import PyTorch takes seconds. The parent must not
compute, since threads do not survive a fork.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mixmix
from mixmix.errors import InputError, is_out_of_memory

__all__ = ["SCENARIOS", "Result", "forked", "started", "waited"]

_SECONDS = 120


def _network(width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    ).eval()


def _model(width: int = 4) -> mixmix.Model:
    spec = mixmix.ModelSpec("tiny", "module", (3, 8, 8), 0.5, 0.25, 4)
    return mixmix.load((_network(width), spec))


def _images() -> mixmix.ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, 8, 8), generator=generator) / 255
    return mixmix.ImageSet(images, torch.arange(12) % 4, torch.zeros(12, 4), {})


def _synthesize(out: Path, seed: int) -> Any:
    settings = mixmix.SynthesisSettings(num_images=8, batch_size=4, iterations=2)
    data = mixmix.synthesize(mixmix.Zoo([_model()]), settings, seed=seed, out=out, threads=1)
    return data.sha256


def _generate(out: Path, seed: int) -> Any:
    settings = mixmix.AmortizedSettings(
        steps=1, batch_size=4, num_latents=8, latent_size=4, width=2
    )
    zoo = mixmix.Zoo([_model()])
    return mixmix.generate(zoo, settings, num_images=12, warmup_rounds=1, seed=seed, out=out).sha256


def _training() -> mixmix.TrainingSettings:
    return replace(mixmix.TrainingSettings(), steps=4, batch_size=4, checkpoint_steps=2)


def _weights(compressed: mixmix.Compressed) -> str:
    from mixmix.runtime.storage import sha256_of_tensors

    return sha256_of_tensors(compressed.module.state_dict())


def _distill(out: Path, seed: int) -> Any:
    training = replace(_training(), feature_weight=0.0)
    fresh = mixmix.GeneratedImages(
        mixmix.Zoo([_model()]),
        mixmix.AmortizedSettings(steps=1, batch_size=4, num_latents=8, latent_size=4, width=2),
        warmup_rounds=1,
        first_rounds=1,
        every_steps=2,
    )
    method = mixmix.Distill(_network(3), training, fresh, checkpoints=out)
    return _weights(mixmix.compress(_model(), _images(), method, seed=seed))


def _prune(out: Path, seed: int) -> Any:
    recovery = mixmix.FineTune(_training(), checkpoints=out / "fine-tuning", held_out=0)
    method = mixmix.Prune(sparsity=0.5, recovery=recovery, checkpoints=out)
    return _weights(mixmix.compress(_model(), _images(), method, seed=seed))


def _save(out: Path, seed: int) -> Any:
    data = _images()
    data.export_image_folder(out / "png")
    data.contact_sheet(out / "sheet.png")
    mixmix.export(_model(), out / "model.onnx")
    return data.sha256


SCENARIOS: dict[str, Callable[[Path, int], Any]] = {
    "synthesize": _synthesize,
    "generate": _generate,
    "distill": _distill,
    "prune": _prune,
    "save": _save,
}


@dataclass(frozen=True)
class Result:
    """How a process ended: ``result``, ``refused``, ``memory``, ``traceback``, ``ended``, ``hang``.

    ``value`` is its result, its message, or its exit code.
    """

    kind: str
    value: Any


def started(work: Callable[[], Any]) -> tuple[int, int]:
    """Fork a process; returns its id, and the pipe on which its result comes."""
    receiver, sender = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        os.close(sender)
        return process, receiver
    os.close(receiver)
    try:
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        found = Result("result", work())
    except InputError as error:
        found = Result("refused", str(error))
    except BaseException as error:
        kind = "memory" if is_out_of_memory(error) else "traceback"
        found = Result(kind, "".join(traceback.format_exception(error))[-3000:])
    try:
        os.write(sender, pickle.dumps(found))
    finally:
        os._exit(0)


def waited(process: int, receiver: int, *, seconds: float = _SECONDS) -> Result:
    """The result of a process."""
    content, end = b"", time.monotonic() + seconds
    try:
        while True:
            ready, _, _ = select.select([receiver], [], [], max(0, end - time.monotonic()))
            if not ready:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return Result("hang", None)
            part = os.read(receiver, 2**16)
            if not part:
                break
            content += part
    finally:
        os.close(receiver)
    _, status = os.waitpid(process, 0)
    if content:
        found: Result = pickle.loads(content)
        return found
    return Result("ended", os.waitstatus_to_exitcode(status))


def forked(work: Callable[[], Any], *, seconds: float = _SECONDS) -> Result:
    """Run a function in a forked process, to its end."""
    return waited(*started(work), seconds=seconds)
