"""Part a: cost of an iteration, compared with a plain loop that does the same."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import torch
from harness.clocks import Worker, in_fresh_process
from harness.networks import load_network

from mixmix import Model, SynthesisSettings, Zoo, recipe, synthesize
from mixmix.demo.bundled import bundled_members
from mixmix.graph.costs import count_macs
from speed_parts.options import Options
from speed_parts.plain_loop import invert_plainly

__all__ = ["rows"]

_BATCH_SIZES = {"torchvision:resnet18@64": 32}
_BATCH_SIZE = 128
# As many batches as the default data set has, so that both may use what several offer.
_NUM_BATCHES = 2
_MATRIX_SIDE, _PRODUCTS = 2048, 5


def rows(options: Options) -> Iterator[dict[str, Any]]:
    bundled = [f"bundled:{name}" for name in bundled_members()]
    names = options.networks or ("resnet20", "resnet44", *bundled, "torchvision:resnet18@64")
    for name in names:
        yield _compare(name, options)


def _compare(name: str, options: Options) -> dict[str, Any]:
    """All contenders and the matrix product take turns, each in its own process.

    The time of an iteration is the difference of a long and a short run, so that set-up and
    compilation cancel; the first round is not counted. A round in which a difference is not
    positive says nothing, for whatever else the machine did; it is left out, and the row says so.
    """
    batch_size = 8 if options.quick else _BATCH_SIZES.get(name, _BATCH_SIZE)
    short, long = (2, 4) if options.quick else (2, 10)
    repeats = 1 if options.quick else options.repeats
    job = (name, options.weights_dir, batch_size, short, long)
    contenders: dict[str, tuple[Callable[..., float], bool]] = {
        "mixmix": (_time_mixmix, True),
        "plain": (_time_plain, False),
        "plain_kept": (_time_plain, True),
    }
    rates: dict[str, list[float]] = {contender: [] for contender in contenders}
    peaks: list[float] = []
    with ExitStack() as stack:
        matrix_worker = stack.enter_context(Worker(keep_memory=False))
        workers = {
            key: stack.enter_context(Worker(keep_memory=kept))
            for key, (_, kept) in contenders.items()
        }
        for round_ in range(repeats + 1):
            peak = matrix_worker(_matmul_gflops)
            found = {key: workers[key](run, *job) for key, (run, _) in contenders.items()}
            if round_ and min(found.values()) > 0:
                peaks.append(peak)
                for key, seconds in found.items():
                    rates[key].append(_NUM_BATCHES * batch_size / seconds)
    left_out = {"rounds_left_out": repeats - len(peaks)}
    if not peaks:
        return {"part": "a", "model": name, "task": "synthesize", "n": 0} | left_out
    flop = in_fresh_process(_flop_per_image_iteration, name, options.weights_dir)
    return _row(name, batch_size, rates, peaks, flop) | left_out


def _row(
    name: str, batch_size: int, rates: dict[str, list[float]], peaks: list[float], flop: float
) -> dict[str, Any]:
    pairs = list(zip(rates["mixmix"], rates["plain"], strict=True))
    ratios = [fast / plain for fast, plain in pairs]
    kept = [fast / plain for fast, plain in zip(rates["mixmix"], rates["plain_kept"], strict=True)]
    median = {key: statistics.median(values) for key, values in rates.items()}
    peak = statistics.median(peaks)
    return {
        "part": "a",
        "model": name,
        "task": "synthesize",
        "batch_size": batch_size,
        "num_images": _NUM_BATCHES * batch_size,
        "image_iterations_per_second": round(median["mixmix"], 1),
        "plain_image_iterations_per_second": round(median["plain"], 1),
        "ratio_to_plain_loop": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "ratio_to_plain_loop_with_kept_memory": round(statistics.median(kept), 3),
        "gflop_per_image_iteration": round(flop / 1e9, 4),
        "gflops": round(median["mixmix"] * flop / 1e9, 2),
        "peak_gflops": round(peak, 1),
        "peak_low": round(min(peaks), 1),
        "peak_high": round(max(peaks), 1),
        "share_of_matmul_peak": _share(rates["mixmix"], peaks, flop),
        "plain_share_of_matmul_peak": _share(rates["plain"], peaks, flop),
        "n": len(ratios),
    }


def _share(rates: list[float], peaks: list[float], flop: float) -> float:
    """Median over the rounds of what was achieved against the peak of the same round."""
    pairs = zip(rates, peaks, strict=True)
    return round(statistics.median(rate * flop / 1e9 / peak for rate, peak in pairs), 4)


def _settings(batch_size: int, iterations: int) -> SynthesisSettings:
    return recipe(
        "deepinversion",
        num_images=_NUM_BATCHES * batch_size,
        batch_size=batch_size,
        iterations=iterations,
    )


@cache
def _zoo(name: str, weights_dir: Path) -> Zoo:
    return Zoo([Model(*load_network(name, weights_dir))])


def _time_mixmix(name: str, weights_dir: Path, batch_size: int, short: int, long: int) -> float:
    zoo = _zoo(name, weights_dir)

    def run(iterations: int) -> None:
        synthesize(zoo, _settings(batch_size, iterations), seed=0)

    return _seconds_per_iteration(run, short, long)


def _time_plain(name: str, weights_dir: Path, batch_size: int, short: int, long: int) -> float:
    model, spec = load_network(name, weights_dir)

    def run(iterations: int) -> None:
        invert_plainly(model, spec, _settings(batch_size, iterations), seed=0)

    return _seconds_per_iteration(run, short, long)


def _seconds_per_iteration(run: Callable[[int], None], short: int, long: int) -> float:
    """Wall seconds of one iteration on all batches; not positive if the clock was disturbed."""
    seconds = []
    for iterations in (short, long):
        started = time.perf_counter()
        run(iterations)
        seconds.append(time.perf_counter() - started)
    return (seconds[1] - seconds[0]) / (long - short)


def _flop_per_image_iteration(name: str, weights_dir: Path) -> float:
    """Forward and gradient of the input, of convolutions and linear layers: 2 x 2 x MACs."""
    model, spec = load_network(name, weights_dir)
    return 2 * 2 * count_macs(model, spec.input_shape)


def _matmul_gflops() -> float:
    """Best of several float32 products of two square matrices, on all threads of torch.

    The best, because it is the ceiling; it is measured anew in every round, because the clock of
    a shared machine drifts.
    """
    left, right = torch.rand(2, _MATRIX_SIDE, _MATRIX_SIDE).unbind()
    torch.mm(left, right)
    seconds = []
    for _ in range(_PRODUCTS):
        started = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - started)
    return 2 * _MATRIX_SIDE**3 / min(seconds) / 1e9
