"""Do images of other networks serve EfficientNet-Lite0 on ImageNet as well as its own?

It is quantized, or pruned with settings such as ``--settings channels-20%:reconstruction``.

``python benchmarks/imagenet.py --photographs FOLDER --work WORK
--out benchmarks/records/DATE_imagenet``

The weights come with ``mixmix[imagenet]``. Finished cells are stored in the work folder, so that a
run resumes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from harness.cells import numbers
from harness.record import Record
from harness.threads import limit_threads
from imagenet_parts.cells import SETTINGS, SOURCES, all_cells
from imagenet_parts.measure import Run, float_row, row_of

QUESTION = "Do images of other networks serve EfficientNet-Lite0 on ImageNet as well as its own?"
KEY = ("model", "task", "setting", "images", "num_images", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--scales", default="0.5,1.0")
    parser.add_argument("--reconstruction", type=int, help="iterations per unit, for quantization")
    parser.add_argument("--steps", type=int, help="fine-tuning steps, for pruning")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--minutes", type=float, help="start no cell after this time")
    arguments = parser.parse_args()
    if arguments.threads:
        limit_threads(arguments.threads)
    run = Run(
        arguments.photographs,
        arguments.work,
        arguments.num_images,
        arguments.iterations,
        tuple(float(scale) for scale in arguments.scales.split(",")),
        arguments.reconstruction,
        arguments.steps,
    )
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    cells = list(
        all_cells(
            settings=arguments.settings.split(","),
            sources=arguments.sources.split(","),
            seeds=numbers(arguments.seeds),
        )
    )
    record.add(*(float_row(run, task=task) for task in {cell.task for cell in cells}))
    started = time.monotonic()
    for cell in cells:
        if arguments.minutes and time.monotonic() - started > 60 * arguments.minutes:
            print("time is up", flush=True)
            break
        row = row_of(cell, run)
        record.add(row)
        print(f"{cell.name}: {row['top1']:.2f}", flush=True)


if __name__ == "__main__":
    main()
