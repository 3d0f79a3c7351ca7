"""How well does ``mixmix inspect`` know the time and memory that ``mixmix compress`` takes?

``python benchmarks/inspection.py --weights-dir WEIGHTS --work WORK
--out benchmarks/records/DATE_inspection``

``inspect`` and ``compress`` (to W8A8) run one after the other, each in its own process. Networks of
timm have random weights and images of the size behind the ``@``. All are ONNX files of PyTorch's
exporter, in which BatchNorm is folded, but for ``bundled:`` names with a ``+``, which keep theirs.
Seconds are of the wall clock, memory is the peak of resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from from_file import Network, network_of
from harness.clocks import in_fresh_process
from harness.record import Record

QUESTION = "How well does mixmix inspect know the time and memory that mixmix compress takes?"
KEY = ("model", "setting", "seed")
NETWORKS = (
    *("bundled:resnet", "bundled:mobilenetv2", "bundled:vit", "bundled:convnext", "bundled:vgg+"),
    *("bundled:vovnet+", "resnet20", "resnet44", "timm:resnet18@96", "timm:efficientnet_b0@160"),
    *("timm:mobilenetv3_small_100@128", "timm:vit_tiny_patch16_224@224"),
)


def arguments_of(name: str, weights_dir: Path, work: Path) -> list[str]:
    """The network as the command line takes it, with what a file does not say."""
    if name.endswith("+"):
        return [name[:-1]]
    # In a process of its own, since children inherit the peak memory of this one.
    network: Network = in_fresh_process(network_of, name, weights_dir, work)
    return network.arguments


def run(command: list[str], log: Path) -> tuple[float, float, str]:
    """Seconds, peak memory in GiB and standard output of a process."""
    start = time.perf_counter()
    with log.open("w") as errors, log.with_suffix(".out").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed: {log.read_text()[-500:]}")
    return seconds, usage.ru_maxrss / 2**20, log.with_suffix(".out").read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    arguments = parser.parse_args()
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    for name in arguments.networks.split(","):
        row: dict[str, Any] = {"model": name, "task": "inspect", "setting": "W8A8", "seed": 0}
        if row in record:
            continue
        network = arguments_of(name, arguments.weights_dir, arguments.work)
        folder = arguments.work / name.replace(":", "-")
        folder.mkdir(parents=True, exist_ok=True)
        mixmix = [sys.executable, "-m", "mixmix"]
        inspect = [*mixmix, "inspect", *network, "--threads", "1", "--json"]
        took, _, found = run(inspect, folder / "inspect.log")
        estimate = json.loads(found)
        out = folder / "small.onnx"
        compress = [*mixmix, "compress", *network, "-o", str(out), "--threads", "1"]
        seconds, memory, _ = run(compress, folder / "compress.log")
        estimated = sum(estimate["seconds"].values())
        row |= {
            "estimated_seconds": round(estimated, 1),
            "seconds": round(seconds, 1),
            "seconds_ratio": round(estimated / seconds, 2),
            "estimated_memory_gib": round(estimate["memory_gib"], 2),
            "memory_gib": round(memory, 2),
            "memory_ratio": round(estimate["memory_gib"] / memory, 2),
            "seconds_of_inspect": round(took, 1),
            "seconds_by_step": estimate["seconds"],
        }
        record.add(row)
        print(name, row["seconds_ratio"], row["memory_ratio"], f"{seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
