"""How much accuracy do few bits cost with images of each source, at equal budgets?

``python benchmarks/quantization.py --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_quantization --mct-python MCT_ENVIRONMENT/bin/python``

Every cell is kept in the work folder, so that a run goes on where an earlier one ended; its rows
join those that the record holds already. ``--minutes`` ends a run before the first cell that starts
later than that. Without ``--mct-python`` the cells of that source are left out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from harness.record import Record
from harness.sources import Budget
from harness.threads import limit_threads
from quantization_parts.cells import NETWORKS, OTHERS, SETTINGS, SOURCES, all_cells
from quantization_parts.measure import float_row, row_of

QUESTION = "How much accuracy do few bits cost with images of each source, at equal budgets?"
KEY = ("model", "task", "setting", "images", "num_images", "seed")


def main() -> None:
    arguments = _parser().parse_args()
    started = time.monotonic()
    if arguments.threads:
        limit_threads(arguments.threads)
    budget = Budget(
        weights_dir=arguments.weights_dir,
        data=arguments.data,
        work=arguments.work or arguments.out.with_name(f"{arguments.out.name}-work"),
        num_images=arguments.num_images,
        iterations=arguments.iterations,
        mct_python=arguments.mct_python,
    )
    networks, sources = arguments.networks.split(","), arguments.sources.split(",")
    if arguments.mct_python is None:
        sources = [source for source in sources if source != "mct"]
    cells = list(
        all_cells(
            task=arguments.task,
            networks=networks,
            settings=arguments.settings.split(","),
            sources=sources,
            seeds=[int(seed) for seed in arguments.seeds.split(",")],
        )
    )
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    record.add(*(float_row(network, budget) for network in networks))
    for index, cell in enumerate(cells):
        minutes = (time.monotonic() - started) / 60
        if arguments.minutes is not None and minutes > arguments.minutes:
            print(f"time is up: {len(cells) - index} of {len(cells)} cells are left", flush=True)
            break
        row = row_of(cell, budget)
        record.add(row)
        print(f"{index + 1}/{len(cells)} {cell.name}: {row['top1']:.2f}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="default: OUT-work")
    parser.add_argument("--task", choices=("quantize", "qat"), default="quantize")
    parser.add_argument("--networks", default=",".join((*NETWORKS, *OTHERS)))
    parser.add_argument("--settings", default=",".join(SETTINGS), help="from hard to easy")
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--num-images", type=int, default=Budget.num_images)
    parser.add_argument("--iterations", type=int, help="of synthesis; default: the recipes' own")
    parser.add_argument("--minutes", type=float, help="start no cell after this time")
    parser.add_argument("--mct-python", help="interpreter with model-compression-toolkit")
    parser.add_argument("--threads", type=int, help="of every process; default: as torch has it")
    return parser


if __name__ == "__main__":
    main()
