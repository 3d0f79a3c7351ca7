"""The loop over cells that benchmarks with large tables share."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from harness.floats import float_row
from harness.record import Record
from harness.sources import Budget
from harness.threads import limit_threads

__all__ = ["NamedCell", "budget_of", "budget_parser", "cell_parser", "numbers", "run_cells"]


class NamedCell(Protocol):
    @property
    def name(self) -> str: ...


SomeCell = TypeVar("SomeCell", bound=NamedCell)


def run_cells(
    cells: Iterable[SomeCell],
    row_of: Callable[[SomeCell, Budget], dict[str, Any]],
    task: str,
    record: Record,
    arguments: argparse.Namespace,
    **budget: Any,
) -> None:
    """Measure the untouched networks, then one cell after another.

    Args:
        cells: in the order in which they are measured.
        row_of: measures one of them.
        task: of the rows of untouched networks.
        record: that rows are added to.
        arguments: of a ``cell_parser``; after their ``minutes`` no cell is started.
        budget: what the benchmark adds to the budget that they give.
    """
    started, minutes = time.monotonic(), arguments.minutes
    own = budget_of(arguments, **budget)
    record.add(*(float_row(network, own, task=task) for network in arguments.networks.split(",")))
    cells = list(cells)
    for index, cell in enumerate(cells):
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            print(f"time is up: {len(cells) - index} of {len(cells)} cells are left", flush=True)
            break
        row = row_of(cell, own)
        record.add(row)
        print(f"{index + 1}/{len(cells)} {cell.name}: {row['top1']:.2f}", flush=True)


def cell_parser(
    description: str | None,
    *,
    networks: Sequence[str],
    settings: Sequence[str],
    sources: Sequence[str],
    num_images: int,
) -> argparse.ArgumentParser:
    """Options shared by benchmarks with cells."""
    parser = budget_parser(description, sources=sources, num_images=num_images, seeds="0,1,2")
    parser.add_argument("--networks", default=",".join(networks))
    parser.add_argument("--settings", default=",".join(settings), help="from hard to easy")
    parser.add_argument("--minutes", type=float, help="start no cell after this time")
    return parser


def budget_parser(
    description: str | None, *, sources: Sequence[str], num_images: int, seeds: str
) -> argparse.ArgumentParser:
    """Options for folders, sources, seeds and numbers of images."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="default: OUT-work")
    parser.add_argument("--sources", default=",".join(sources))
    parser.add_argument("--seeds", default=seeds)
    parser.add_argument("--num-images", type=int, default=num_images)
    parser.add_argument("--threads", type=int, help="threads of every process (default: PyTorch's)")
    return parser


def budget_of(arguments: argparse.Namespace, **others: Any) -> Budget:
    """The budget from the arguments of a ``budget_parser``; limits the threads."""
    if arguments.threads:
        limit_threads(arguments.threads)
    return Budget(
        weights_dir=arguments.weights_dir,
        data=arguments.data,
        work=arguments.work or arguments.out.with_name(f"{arguments.out.name}-work"),
        num_images=arguments.num_images,
        **others,
    )


def numbers(text: str) -> list[int]:
    """Comma-separated integers."""
    return [int(part) for part in text.split(",")]
