"""Do images of one zoo serve the compression of networks outside it?

``python benchmarks/generalization.py --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_generalization``

Rows are zoos (each network alone, pairs, all, all but one), columns the networks that are quantized
on their images. Finished cells are stored in the work folder, so that a run resumes.
"""

from __future__ import annotations

import argparse

from generalization_parts.cells import TARGETS, Cell, all_cells
from generalization_parts.measure import row_of
from harness.cells import cell_parser, numbers, run_cells
from harness.record import Record

QUESTION = "Do images of one zoo serve the compression of networks outside it?"
KEY = ("model", "task", "setting", "images", "num_images", "seed")


def main() -> None:
    parser = cell_parser(__doc__, networks=TARGETS, settings=("W4A4",), sources=(), num_images=256)
    parser.add_argument("--pairs", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    cells: list[Cell] = []
    for setting in arguments.settings.split(","):
        cells += all_cells(
            targets=arguments.networks.split(","),
            setting=setting,
            seeds=numbers(arguments.seeds),
            pairs=arguments.pairs,
        )
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    run_cells(cells, row_of, "generalize", record, arguments)


if __name__ == "__main__":
    main()
