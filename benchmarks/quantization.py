"""How much accuracy do few bits cost with images of each source, at equal budgets?

``python benchmarks/quantization.py --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_quantization --mct-python MCT_ENVIRONMENT/bin/python``

Every cell is kept in the work folder, so that a run goes on where an earlier one ended; the record
holds all cells that are finished and asked for. ``--minutes`` ends a run before the first cell
that starts later than that. Without ``--mct-python`` the cells of that source are left out.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from harness.threads import limit_threads
from quantization_parts.cells import NETWORKS, OTHERS, SETTINGS, SOURCES, all_cells
from quantization_parts.measure import float_row, row_of
from quantization_parts.sources import Budget

from mixmix.reporting import benchmark_record
from mixmix.storage import write_json

QUESTION = "How much accuracy do few bits cost with images of each source, at equal budgets?"


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
            networks=networks,
            settings=arguments.settings.split(","),
            sources=sources,
            seeds=[int(seed) for seed in arguments.seeds.split(",")],
        )
    )
    rows = [float_row(network, budget) for network in networks]
    for index, cell in enumerate(cells):
        minutes = (time.monotonic() - started) / 60
        if arguments.minutes is not None and minutes > arguments.minutes:
            print(f"time is up: {len(cells) - index} of {len(cells)} cells are left", flush=True)
            break
        rows.append(row_of(cell, budget))
        print(f"{index + 1}/{len(cells)} {cell.name}: {rows[-1]['top1']:.2f}", flush=True)
        record = benchmark_record(QUESTION, f"python {shlex.join(sys.argv)}", rows)
        write_json(arguments.out / "result.json", record)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="default: OUT-work")
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
