"""Latency and size of exported files."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mixmix.errors import InputError

__all__ = ["compare_latency_ms", "size_bytes"]

# The first runs allocate memory and select kernels.
_NUM_WARM_UP_RUNS = 3


def size_bytes(path: str | Path) -> int:
    """Size of a file in bytes, with that of the files that an ONNX file has its weights in.

    Raises:
        InputError: if it does not exist.
    """
    try:
        size = Path(path).stat().st_size
        if Path(path).suffix == ".onnx":
            from mixmix.runtimes.onnx_reading import external_files  # slow to import

            size += sum(each.stat().st_size for each in external_files(Path(path)))
        return size
    except OSError as error:
        raise InputError(f"cannot read the size of {path}: {error.strerror}") from error


def compare_latency_ms(
    paths: Sequence[str | Path],
    *,
    batch_size: int = 1,
    repeats: int = 20,
    rounds: int = 5,
    threads: int = 1,
    quantile: float = 0.5,
    input_shape: tuple[int, int, int] | None = None,
) -> dict[str, float]:
    """Latency of ONNX files in ONNX Runtime on the CPU, in milliseconds.

    Runs of the files alternate, so that other load on the machine affects all of them equally.

    Args:
        paths: of files whose first axis is the batch.
        batch_size: images in a run.
        repeats: timed runs of each file in a round.
        rounds: number of rounds; the result is the median of their quantiles.
        threads: threads within an operator.
        quantile: of the runs of a round, in [0, 1]. Other load can only slow runs down, so a low
            quantile is more precise on a busy machine.
        input_shape: (C, H, W) of images, for files that leave it open.

    Returns:
        From paths, as given, to milliseconds, in the order given.

    Raises:
        InputError: if there is no path, a number is out of range, a file does not exist, or the
            size of its images is not fixed.
    """
    if not paths:
        raise InputError("no ONNX file to time; pass at least one path")
    if min(batch_size, repeats, rounds, threads) < 1:
        raise InputError(
            "batch_size, repeats, rounds and threads must be at least 1, got "
            f"{batch_size}, {repeats}, {rounds} and {threads}"
        )
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile must be in [0, 1], got {quantile}")
    from mixmix.runtimes.session import OnnxSession  # onnxruntime takes long to import

    sessions = {str(path): OnnxSession(path, threads=threads) for path in paths}
    models = {
        name: (
            session,
            session.feed(torch.zeros(batch_size, *input_shape or session.batch_shape(1)[1:])),
        )
        for name, session in sessions.items()
    }
    for session, images in models.values():
        for _ in range(_NUM_WARM_UP_RUNS):
            session.run_feed(images)
    results: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(repeats):
            for name, (session, images) in models.items():
                start = time.perf_counter()
                session.run_feed(images)
                times[name].append(1e3 * (time.perf_counter() - start))
        for name, values in times.items():
            results[name].append(float(np.quantile(values, quantile)))
    return {name: statistics.median(values) for name, values in results.items()}
