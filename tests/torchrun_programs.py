"""Programs that the tests start under torchrun, and the parts they compare in one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec, tiny_teacher
from torch import Tensor
from torch.nn import functional as F

from mixmix import ImageSet, SynthesisSettings, Zoo, synthesize
from mixmix.compress.train.settings import TrainingSettings
from mixmix.compress.train.train import train_
from mixmix.errors import InputError, RankError
from mixmix.runtime import distributed

SETTINGS = SynthesisSettings(num_images=24, batch_size=4, iterations=3)
# One for each of two processes.
THREADS = 2


def torchrun(
    *arguments: str | Path, cwd: Path, num_processes: int = 2
) -> subprocess.CompletedProcess[str]:
    """Start a program in several processes and wait for its end."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc-per-node", str(num_processes), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(cwd), *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
    )


def tiny_zoo() -> Zoo:
    return Zoo([tiny_teacher(name) for name in ("plain", "residual", "depthwise")])


def lose_a_process(out: str) -> None:
    """Synthesize; the second process dies in its second shard."""

    def on_progress(what: str, fraction: float) -> None:
        # Of its three shards.
        if distributed.rank() == 1 and fraction > 1 / 3:
            os.kill(os.getpid(), signal.SIGKILL)

    synthesize(tiny_zoo(), SETTINGS, seed=1, out=out, threads=THREADS, on_progress=on_progress)


def trained_weights() -> dict[str, Tensor]:
    """A tiny network after some steps, trained by as many processes as there are."""
    model = tiny_network("residual").requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(10, *INPUT_SHAPE, generator=generator)
    labels = torch.arange(10) % NUM_CLASSES
    parallel = distributed.data_parallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for indices in distributed.global_batches(10, 4, num_steps=6, seed=0):
        optimizer.zero_grad()
        F.cross_entropy(parallel(images[indices]), labels[indices]).backward()
        optimizer.step()
    return model.state_dict()


def distilled_weights() -> dict[str, Tensor]:
    """A tiny network that learned from another, in as many processes as there are."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(12, *INPUT_SHAPE, generator=generator)
    data = ImageSet(images, torch.arange(12) % NUM_CLASSES, torch.zeros(12, 4), {})
    student = tiny_network("plain").requires_grad_(True)
    settings = TrainingSettings(steps=4, batch_size=8, optimizer="sgd", learning_rate=0.01)
    train_(student, tiny_network("residual"), data, tiny_spec("plain"), settings, seed=0)
    return student.state_dict()


def work_together(out: str) -> None:
    """Train, exchange values, meet an error; every process writes what it saw."""
    seen: dict[str, Any] = {}

    def refuse() -> None:
        raise InputError("no such folder")

    with distributed.process_group():
        weights = trained_weights()
        distilled = distilled_weights()
        seen["gathered"] = distributed.gather(10 + distributed.rank())
        seen["from_main"] = distributed.from_main(lambda: 5 + distributed.rank())
        for name, call in (
            ("error_of_main", lambda: distributed.from_main(refuse)),
            ("in_memory", lambda: synthesize(tiny_zoo(), SETTINGS, seed=1)),
        ):
            try:
                call()
            except (InputError, RankError) as error:
                seen[name] = [type(error).__name__, str(error)]
        distributed.barrier()
    folder = Path(out)
    torch.save(weights, folder / f"weights-{distributed.rank()}.pt")
    torch.save(distilled, folder / f"distilled-{distributed.rank()}.pt")
    (folder / f"seen-{distributed.rank()}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    {"lose": lose_a_process, "together": work_together}[sys.argv[1]](sys.argv[2])
