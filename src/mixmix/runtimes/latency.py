"""How long exported files take, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mixmix.errors import InputError

__all__ = ["compare_latency_ms", "measure_latency_ms", "size_bytes"]


# The first runs allocate memory and pick kernels.
_NUM_WARM_UP_RUNS = 3


def size_bytes(path: str | Path) -> int:
    """Bytes of a file.

    Raises:
        InputError: if there is none.
    """
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise InputError(f"no file at {path} to take the size of: {error.strerror}") from error


def measure_latency_ms(
    onnx_path: str | Path, *, batch_size: int = 1, repeats: int = 50, threads: int = 1
) -> float:
    """Median time of one run of an ONNX file in ONNX Runtime on the CPU, in milliseconds.

    Args:
        onnx_path: of a file whose first axis is the batch.
        batch_size: images in one run.
        repeats: timed runs, after some that are not timed.
        threads: threads within an operator.

    Raises:
        InputError: if a number is not positive, or the file is absent or has free axes other than
            the batch and no spec that says their size.
    """
    (latency_ms,) = compare_latency_ms(
        [onnx_path], batch_size=batch_size, repeats=repeats, rounds=1, threads=threads
    ).values()
    return latency_ms


def compare_latency_ms(
    paths: Sequence[str | Path],
    *,
    batch_size: int = 1,
    repeats: int = 20,
    rounds: int = 5,
    threads: int = 1,
    quantile: float = 0.5,
) -> dict[str, float]:
    """Time several ONNX files side by side.

    A round times each file ``repeats`` times, one run of every file after the other, so that
    whatever else the machine does meets all of them alike.

    Args:
        paths: of the files.
        batch_size: images in one run.
        repeats: timed runs of each file in a round.
        rounds: the result is the median over them of each round's quantile.
        threads: threads within an operator.
        quantile: of a round's runs, in [0, 1]. What else a machine does can only add to a run, so
            a low one says more on a busy machine, where runs of some length are all interrupted.

    Returns:
        From each path, as it was given, to milliseconds, in the order given.

    Raises:
        InputError: as in ``measure_latency_ms``, or if there is no path.
    """
    if not paths:
        raise InputError("there is no ONNX file to time; give at least one path")
    numbers = {
        "batch_size": batch_size,
        "repeats": repeats,
        "rounds": rounds,
        "threads": threads,
    }
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile must be in [0, 1], got {quantile}")
    # onnxruntime takes long to import, and counting needs none of it.
    from mixmix.runtimes.session import OnnxSession

    models: dict[str, tuple[OnnxSession, Tensor]] = {}
    for path in paths:
        session = OnnxSession(path, threads=threads)
        models[str(path)] = (session, torch.zeros(session.batch_shape(batch_size)))
    for session, images in models.values():
        for _ in range(_NUM_WARM_UP_RUNS):
            session.run(images)
    results: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(repeats):
            for name, (session, images) in models.items():
                start = time.perf_counter()
                session.run(images)
                times[name].append(1e3 * (time.perf_counter() - start))
        for name, values in times.items():
            results[name].append(float(np.quantile(values, quantile)))
    return {name: statistics.median(values) for name, values in results.items()}
