"""How fast are synthesis and reconstruction, compared with other tools?

``python benchmarks/speed.py --parts a,b,c,d --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_speed --mct-python MCT_ENVIRONMENT/bin/python``

Parts: ``a`` cost of an iteration, compared with a plain loop; ``b`` accuracy by CPU-seconds; ``c``
growth of time and memory; ``d`` reconstruction. A run replaces the rows of its parts in the record
(with ``--images`` or ``--networks``, only of those) and keeps the others. Finished images and
accuracies are in the work folder (``images/``, ``quantized/``); delete those to be made again.

Run it on an idle machine: waiting threads use CPU time too, so that other work inflates it. If the
machine is busy, ``--threads 1`` keeps parts b and d comparable.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from harness.threads import limit_threads
from speed_parts.options import Options

from mixmix.report.record import benchmark_record
from mixmix.runtime.storage import read_json, write_json

QUESTION = "How fast are synthesis and reconstruction, against the ways in use?"
PARTS = {"a": "iteration", "b": "accuracy", "c": "growth", "d": "reconstruction"}


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    parts = _listed(arguments.parts)
    if not parts or not set(parts) <= set(PARTS):
        parser.error(f"--parts must be of {','.join(PARTS)}, got {arguments.parts!r}")
    work = arguments.work or arguments.out.with_name(f"{arguments.out.name}-work")
    if arguments.threads:
        limit_threads(arguments.threads)
    options = Options(
        weights_dir=arguments.weights_dir,
        data=arguments.data,
        work=work,
        seeds=tuple(int(seed) for seed in _listed(arguments.seeds)),
        repeats=arguments.repeats,
        quick=arguments.quick,
        images=_listed(arguments.images),
        networks=_listed(arguments.networks),
        mct_python=arguments.mct_python,
        num_images=arguments.num_images,
    )
    record = _Record(arguments.out / "result.json", f"python {shlex.join(sys.argv)}")
    for part in parts:
        found: list[dict[str, Any]] = []
        for row in importlib.import_module(f"speed_parts.{PARTS[part]}").rows(options):
            found.append(row | ({"quick": True} if options.quick else {}))
            print(json.dumps(found[-1]), flush=True)
            record.replace(part, found, selected={"a": options.networks, "b": options.images})


class _Record:
    """A ``result.json`` whose parts are replaced one at a time."""

    def __init__(self, path: Path, command: str) -> None:
        self._path, self._command = path, command

    def replace(
        self, part: str, rows: list[dict[str, Any]], *, selected: dict[str, tuple[str, ...]]
    ) -> None:
        """Put rows in the place of the earlier ones of their part.

        Args:
            selected: networks or images that a part was limited to; rows of others stay.
        """
        earlier = read_json(self._path) if self._path.exists() else {}
        limit, key = selected.get(part), {"a": "model", "b": "images"}.get(part, "")
        kept = [
            row
            for row in earlier.get("rows", [])
            if row["part"] != part
            or (limit and row[key] not in limit)
            or (part == "b" and row.get("num_images") != rows[0].get("num_images"))
        ]
        merged = sorted([*kept, *rows], key=lambda row: row["part"])
        record = benchmark_record(QUESTION, self._command, merged)
        about = {key: record[key] for key in ("command", "date", "machine", "versions")}
        runs = earlier.get("runs", {}) | {part: about}
        write_json(self._path, record | {"runs": dict(sorted(runs.items()))})


def _listed(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default="a,b,c,d")
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="default: OUT-work")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of part a")
    parser.add_argument("--images", default="", help="kinds of images of part b; default: all")
    parser.add_argument("--networks", default="", help="networks of part a; default: all")
    parser.add_argument("--num-images", type=int, default=Options.num_images)
    parser.add_argument("--mct-python", help="Python with model-compression-toolkit")
    parser.add_argument("--threads", type=int, help="threads of every process (default: PyTorch's)")
    parser.add_argument("--quick", action="store_true", help="a small run, to try it out")
    return parser


if __name__ == "__main__":
    main()
