"""How much accuracy does pruning cost, recovered on images of each source, at equal budgets?

``python benchmarks/pruning.py --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_pruning``

Finished cells are stored in the work folder, so that a run resumes; it adds its rows to an existing
record. ``--minutes`` starts no cell after that time.
"""

from __future__ import annotations

from harness.cells import cell_parser, numbers, run_cells
from harness.record import Record
from pruning_parts.cells import NETWORKS, RECOVERIES, SETTINGS, SOURCES, all_cells
from pruning_parts.measure import row_of

QUESTION = (
    "How much accuracy does pruning cost, recovered on images of each source, at equal budgets?"
)
KEY = ("model", "task", "setting", "recovery", "images", "num_images", "seed")


def main() -> None:
    parser = cell_parser(
        __doc__, networks=NETWORKS, settings=SETTINGS, sources=SOURCES, num_images=1024
    )
    parser.add_argument("--recoveries", default=",".join(RECOVERIES))
    arguments = parser.parse_args()
    cells = all_cells(
        networks=arguments.networks.split(","),
        settings=arguments.settings.split(","),
        recoveries=arguments.recoveries.split(","),
        sources=arguments.sources.split(","),
        seeds=numbers(arguments.seeds),
    )
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    run_cells(cells, row_of, "prune", record, arguments, zoo="zoo-without-resnet44")


if __name__ == "__main__":
    main()
