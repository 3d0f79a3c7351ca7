"""Cell by cell: what every benchmark with a table of many cells does."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from harness.record import Record

__all__ = ["NamedCell", "cell_parser", "numbers", "run_cells"]


class NamedCell(Protocol):
    @property
    def name(self) -> str: ...


SomeCell = TypeVar("SomeCell", bound=NamedCell)


def run_cells(
    cells: Sequence[SomeCell],
    row_of: Callable[[SomeCell], dict[str, Any]],
    record: Record,
    *,
    minutes: float | None,
) -> None:
    """Measure one cell after another; start none after some minutes."""
    started = time.monotonic()
    for index, cell in enumerate(cells):
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            print(f"time is up: {len(cells) - index} of {len(cells)} cells are left", flush=True)
            break
        row = row_of(cell)
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
    """The options that such benchmarks have in common."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="default: OUT-work")
    parser.add_argument("--networks", default=",".join(networks))
    parser.add_argument("--settings", default=",".join(settings), help="from hard to easy")
    parser.add_argument("--sources", default=",".join(sources))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--num-images", type=int, default=num_images)
    parser.add_argument("--minutes", type=float, help="start no cell after this time")
    parser.add_argument("--threads", type=int, help="of every process; default: as torch has it")
    return parser


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(part) for part in text.split(",")]
