"""Part c: how time and memory of synthesis grow with images, zoo and resolution."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from harness.clocks import in_fresh_process, peak_memory_mb, stopwatch

from mixmix import SynthesisSettings, Zoo, synthesize
from mixmix.models import load_model, load_spec
from speed_parts.options import Options

__all__ = ["rows"]

# All members are copies of this one, so that nothing but what is counted changes.
_COPIED = "bundled:resnet"
_SHORT, _LONG = 2, 8
_VALUES: dict[str, Sequence[int]] = {
    # From as many batches on as are made at a time.
    "num_images": (256, 512, 1024, 2048),
    "zoo_size": (1, 2, 4, 8),
    "resolution": (16, 24, 32, 48, 64),
}


def rows(options: Options) -> Iterator[dict[str, Any]]:
    for against, values in _VALUES.items():
        found = []
        for value in values[:2] if options.quick else values:
            found.append(_measure(against, value, options))
            yield found[-1]
        yield _summary(against, found)


def _measure(against: str, value: int, options: Options) -> dict[str, Any]:
    repeats = 1 if options.quick else 2
    times = in_fresh_process(_time, against, value, repeats, options.quick)
    memory = in_fresh_process(_peak_memory, against, value, options.quick)
    return (
        {
            "part": "c",
            "task": "synthesize",
            "model": _COPIED,
            "against": against,
            "value": value,
            "batch_size": _settings(against, value, _LONG, options.quick).batch_size,
            "num_images": _settings(against, value, _LONG, options.quick).num_images,
            "n": repeats,
        }
        | times
        | memory
    )


def _summary(against: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    values = [row["value"] for row in found]
    exponents = {
        name: _exponent(values, [row[key] for row in found])
        for name, key in {
            "time_exponent": "seconds_per_iteration",
            "cpu_exponent": "cpu_seconds_per_iteration",
            "memory_exponent": "memory_above_start_mb",
        }.items()
    }
    return {
        "part": "c",
        "task": "synthesize",
        "against": against,
        "summary": True,
        "values": values,
        "n": len(values),
    } | exponents


def _exponent(values: Sequence[float], results: Sequence[float]) -> float | None:
    """Slope of the least-squares line through the logarithms."""
    if min(results) <= 0:
        return None
    xs, ys = [math.log(value) for value in values], [math.log(result) for result in results]
    return round(statistics.linear_regression(xs, ys).slope, 3)


def _settings(against: str, value: int, iterations: int, quick: bool) -> SynthesisSettings:
    batch_size = 8 if quick else 128 if against == "num_images" else 64
    # Two batches are enough where their number is not what grows.
    num_images = value // (16 if quick else 1) if against == "num_images" else 2 * batch_size
    return SynthesisSettings(
        num_images=num_images, batch_size=batch_size, iterations=iterations, members_per_step=1
    )


def _zoo(against: str, value: int) -> Zoo:
    spec, model = load_spec(_COPIED), load_model(load_spec(_COPIED))
    if against == "resolution":
        return Zoo.load([(model, replace(spec, input_shape=(3, value, value)))])
    count = value if against == "zoo_size" else 1
    specs = [replace(spec, name=f"{spec.name}-{index}") for index in range(count)]
    return Zoo.load([(model, spec) for spec in specs])


def _time(against: str, value: int, repeats: int, quick: bool) -> dict[str, float]:
    """Median seconds of an iteration on all images, set-up excluded by a difference."""
    zoo = _zoo(against, value)
    # Every member has its turn before the clock runs, so that what is prepared once per network
    # is not taken for a cost of iterations.
    warm_up = replace(_settings(against, value, 1, quick), members_per_step=None)
    synthesize(zoo, replace(warm_up, num_images=warm_up.batch_size), seed=0)
    walls, cpus = [], []
    for repeat in range(repeats):
        costs = []
        for iterations in (_SHORT, _LONG):
            with stopwatch() as cost:
                synthesize(zoo, _settings(against, value, iterations, quick), seed=repeat)
            costs.append(cost)
        walls.append((costs[1].wall_seconds - costs[0].wall_seconds) / (_LONG - _SHORT))
        cpus.append((costs[1].cpu_seconds - costs[0].cpu_seconds) / (_LONG - _SHORT))
    return {
        "seconds_per_iteration": round(statistics.median(walls), 5),
        "seconds_low": round(min(walls), 5),
        "seconds_high": round(max(walls), 5),
        "cpu_seconds_per_iteration": round(statistics.median(cpus), 5),
    }


def _peak_memory(against: str, value: int, quick: bool) -> dict[str, float]:
    """Peak of a process that synthesizes, and how much of it the synthesis added."""
    bare = peak_memory_mb()
    zoo = _zoo(against, value)
    loaded = peak_memory_mb()
    synthesize(zoo, _settings(against, value, _LONG, quick), seed=0)
    peak = peak_memory_mb()
    return {
        "peak_memory_mb": round(peak, 1),
        "zoo_memory_mb": round(loaded - bare, 1),
        "memory_above_start_mb": round(peak - bare, 1),
    }
