"""How much accuracy do few bits cost with images of each source, at equal budgets?

``python benchmarks/quantization.py --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_quantization --mct-python MCT_ENVIRONMENT/bin/python``

Finished cells are stored in the work folder, so that a run resumes; it adds its rows to an existing
record. ``--minutes`` starts no cell after that time. Without ``--mct-python``, its cells are
skipped.
"""

from __future__ import annotations

from harness.cells import cell_parser, numbers, run_cells
from harness.record import Record
from harness.sources import Budget
from quantization_parts.cells import NETWORKS, OTHERS, SETTINGS, SOURCES, all_cells
from quantization_parts.measure import row_of

QUESTION = "How much accuracy do few bits cost with images of each source, at equal budgets?"
KEY = ("model", "task", "setting", "images", "num_images", "seed")


def main() -> None:
    parser = cell_parser(
        __doc__,
        networks=(*NETWORKS, *OTHERS),
        settings=SETTINGS,
        sources=SOURCES,
        num_images=Budget.num_images,
    )
    parser.add_argument("--task", choices=("quantize", "mixed", "qat"), default="quantize")
    parser.add_argument(
        "--iterations", type=int, help="iterations of synthesis (default: those of the recipe)"
    )
    parser.add_argument("--mct-python", help="Python with model-compression-toolkit")
    arguments = parser.parse_args()
    networks, sources = arguments.networks.split(","), arguments.sources.split(",")
    if arguments.mct_python is None:
        sources = [source for source in sources if source != "mct"]
    cells = all_cells(
        task=arguments.task,
        networks=networks,
        settings=arguments.settings.split(","),
        sources=sources,
        seeds=numbers(arguments.seeds),
    )
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    run_cells(
        cells,
        row_of,
        "quantize",
        record,
        arguments,
        iterations=arguments.iterations,
        mct_python=arguments.mct_python,
    )


if __name__ == "__main__":
    main()
