"""Part d: cost and benefit of reconstruction, and the time of the demo."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.clocks import stopwatch

from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.runtime.storage import read_json
from speed_parts.images import images_of
from speed_parts.options import Options
from speed_parts.quantized import quantized

__all__ = ["rows"]

_ITERATIONS = (60, 120, 500)
_SETTING = "W4A4"


def rows(options: Options) -> Iterator[dict[str, Any]]:
    default = ReconstructionSettings().iterations
    counts = sorted({*_ITERATIONS, default})
    for seed in options.seeds:
        images = images_of("mixmix", options, seed=seed)
        for count in [default] if options.quick else counts:
            result = quantized(
                images,
                _SETTING,
                options,
                seed=seed,
                iterations=None if count == default else count,
            )
            yield {
                "part": "d",
                "model": "resnet20",
                "task": "quantize",
                "setting": _SETTING,
                "images": "mixmix",
                "seed": seed,
                "iterations": 2 if options.quick else count,
                "default": count == default,
            } | result
    if not options.quick:
        yield _demo()


def _demo() -> dict[str, Any]:
    """The whole job as a newcomer starts it, interpreter and imports included."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mixmix", "demo", "--out", folder]
        with stopwatch() as cost:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = read_json(Path(folder) / "result.json")["rows"]
    top1 = {row["setting"]: row["top1"] for row in rows}
    return {"part": "d", "model": "demo", "task": "combined", "top1": top1, "n": 1} | cost.rounded()
