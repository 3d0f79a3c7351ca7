"""How accurate is a student, trained from scratch, after so many minutes on images of each source?

``python benchmarks/distillation.py --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_distillation``

Every run has checkpoints in the work folder, so that it goes on where an earlier call ended. The
points of its curve are students at its checkpoints, on the whole test split.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distillation_parts.runs import SOURCES, Run, rows_of
from harness.cells import numbers
from harness.floats import float_row
from harness.record import Record
from harness.sources import Budget
from harness.threads import limit_threads

QUESTION = (
    "How accurate is a student, trained from scratch, after so many minutes on images of each "
    "source?"
)
KEY = ("model", "task", "setting", "images", "num_images", "seed", "steps", "of_steps")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="default: OUT-work")
    parser.add_argument("--teacher", default="resnet44")
    parser.add_argument("--student", default="resnet20", help="resnet20 ..., or bundled:NAME")
    parser.add_argument("--zoo", default="zoo-without-resnet20")
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=6000, help="of training")
    parser.add_argument("--num-images", type=int, default=4096, help="optimised pixel by pixel")
    parser.add_argument("--threads", type=int, help="of every process; default: as torch has it")
    arguments = parser.parse_args()
    if arguments.threads:
        limit_threads(arguments.threads)
    budget = Budget(
        weights_dir=arguments.weights_dir,
        data=arguments.data,
        work=arguments.work or arguments.out.with_name(f"{arguments.out.name}-work"),
        num_images=arguments.num_images,
        zoo=arguments.zoo,
    )
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    record.add(float_row(arguments.teacher, budget, task="distill"))
    for seed in numbers(arguments.seeds):
        for source in arguments.sources.split(","):
            run = Run(arguments.teacher, arguments.student, source, arguments.steps, seed)
            rows = rows_of(run, budget, arguments.threads)
            record.add(*rows)
            print(f"{run.name}: {rows[-1]['top1']:.2f}", flush=True)


if __name__ == "__main__":
    main()
