"""How accurate is a student, trained from scratch, after some minutes on images from each source?

``python benchmarks/distillation.py --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_distillation``

Every run has checkpoints in the work folder and resumes from them. The points of its curve are the
students at its checkpoints, evaluated on the whole test split.
"""

from __future__ import annotations

from distillation_parts.runs import SOURCES, Run, rows_of
from harness.cells import budget_of, budget_parser, numbers
from harness.floats import float_row
from harness.record import Record

QUESTION = (
    "How accurate is a student, trained from scratch, after so many minutes on images of each "
    "source?"
)
KEY = ("model", "task", "setting", "images", "num_images", "seed", "steps", "of_steps")


def main() -> None:
    parser = budget_parser(__doc__, sources=SOURCES, num_images=4096, seeds="0")
    parser.add_argument("--teacher", default="resnet44")
    parser.add_argument("--student", default="resnet20", help="resnet20 ..., or bundled:NAME")
    parser.add_argument("--zoo", default="zoo-without-resnet20")
    parser.add_argument("--steps", type=int, default=6000, help="training steps")
    arguments = parser.parse_args()
    budget = budget_of(arguments, zoo=arguments.zoo)
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    record.add(float_row(arguments.teacher, budget, task="distill"))
    for seed in numbers(arguments.seeds):
        for source in arguments.sources.split(","):
            run = Run(arguments.teacher, arguments.student, source, arguments.steps, seed)
            rows = rows_of(run, budget)
            record.add(*rows)
            print(f"{run.name}: {rows[-1]['top1']:.2f}", flush=True)


if __name__ == "__main__":
    main()
