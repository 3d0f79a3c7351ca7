"""Part b: accuracy of the quantized target, by CPU-seconds of synthesis."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixmix.runtime.storage import read_json, read_tensors
from speed_parts.images import CLIPPED, KINDS, images_of, path_of
from speed_parts.options import Options
from speed_parts.quantized import quantized

__all__ = ["rows"]

_SETTINGS = ("W4A4", "W2A4")
# Fractions of the default iterations, and beyond.
_CURVE = (25, 50, 100, 200)


def rows(options: Options) -> Iterator[dict[str, Any]]:
    for kind in KINDS:
        if options.images and kind not in options.images:
            continue
        if kind == "mct" and options.mct_python is None:
            continue
        seeds = options.seeds[: 1 if kind.endswith(CLIPPED) else None]
        # Peers take long, so theirs is one synthesis and several quantizations.
        own = kind.startswith("mixmix")
        images = [images_of(kind, options, seed=s if own else seeds[0]) for s in seeds]
        for seed, path in zip(seeds, images, strict=True):
            for setting in _SETTINGS:
                row = _row(kind, path, setting, options, seed=seed)
                row["synthesis_seed"] = seed if own else seeds[0]
                yield row | _ratio(row, options)
    if not options.images or "mixmix" in options.images:
        yield from _curve(options)


def _row(
    kind: str, images: Path, setting: str, options: Options, *, seed: int, split: str = "test"
) -> dict[str, Any]:
    about = read_json(images.with_suffix(".json"))
    result = quantized(images, setting, options, seed=seed, split=split)
    return {
        "part": "b",
        "model": "resnet20",
        "task": "quantize",
        "images": kind,
        "num_images": len(read_tensors(images)[0]["images"]),
        "zoo": about.get("zoo", []),
        "iterations": about.get("iterations", 0),
        "setting": setting,
        "seed": seed,
        "top1": result["top1"],
        "num_test": result["num_test"],
        "split": split,
        "synthesis_cpu_seconds": round(about["cpu_seconds"], 2),
        "wall_seconds": round(about["wall_seconds"], 2),
        "synthesis_threads": about.get("threads"),
        "cpu_seconds": result["cpu_seconds"],
        "threads": result["threads"],
    }


def _ratio(row: dict[str, Any], options: Options) -> dict[str, Any]:
    """Against the median of mixmix's seeds; absent where its images are."""
    paths = [path_of("mixmix", options, seed=seed) for seed in options.seeds]
    costs = [read_json(cost) for path in paths if (cost := path.with_suffix(".json")).exists()]
    if not costs:
        return {}
    median = statistics.median(cost["cpu_seconds"] for cost in costs)
    return {"cpu_ratio_to_mixmix": round(row["synthesis_cpu_seconds"] / median, 3)}


def _curve(options: Options) -> Iterator[dict[str, Any]]:
    """What fewer iterations give, on images of the training split, so that nothing is chosen by
    the test split."""
    points: list[tuple[str, int | None]] = [("mixmix", count) for count in _CURVE]
    if "deepinversion" in (options.images or KINDS):
        points.append(("deepinversion", None))
    seed = options.seeds[0]
    for kind, iterations in points[: 1 if options.quick else None]:
        images = images_of(kind, options, seed=seed, iterations=iterations)
        row = _row(kind, images, "W2A4", options, seed=seed, split="train")
        yield row | {"curve": True}
