"""Which channels should go, and how many has a layer to keep?

``python benchmarks/channel_importance.py --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_channel_importance``

Networks are pruned on images of mixmix and judged by their divergence from what they were, on
images of the training split that nothing else sees. A run adds what is missing to the rows that the
record holds already.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from harness.cells import budget_of, budget_parser, numbers
from harness.clocks import in_fresh_process, stopwatch
from harness.networks import load_network
from harness.record import Record
from harness.sources import ZOOS, Budget, images_of
from pruning_parts.cells import RECOVERY_STEPS

from mixmix import PruneChannels, SyntheticDataset, Teacher, compress, seeding
from mixmix.cifar10 import load_cifar10
from mixmix.compression.divergence import mean_divergence, run_in_batches
from mixmix.storage import read_json
from mixmix.zoo.teacher import normalise

QUESTION = "Which channels should go, and how many has a layer to keep?"
KEY = ("model", "setting", "recovery", "importance", "min_share", "images", "seed")
NUM_PHOTOGRAPHS = 3000


def measure(
    row: dict[str, Any],
    network: str,
    method: PruneChannels,
    folder: Path,
    budget: Budget,
    seed: int,
) -> dict[str, Any]:
    """The row of one network, with what was measured."""
    target = Teacher(*load_network(network, budget.weights_dir))
    photographs, _ = load_cifar10(budget.data, split="train")
    order = torch.randperm(len(photographs), generator=seeding.generator(0, "photographs"))
    images = normalise(photographs[order[:NUM_PHOTOGRAPHS]].float() / 255, target.spec)
    with stopwatch() as cost:
        compressed = compress(target, SyntheticDataset.load(folder), method, seed=seed)
    wanted, found = (run_in_batches(m, images) for m in (target.model, compressed.model))
    return (
        row
        | {
            "divergence": mean_divergence(wanted, found),
            "agreement": 100 * float((wanted.argmax(1) == found.argmax(1)).float().mean()),
            "num_photographs": len(images),
            "parameters_ratio": compressed.settings[0]["parameters_ratio"],
        }
        | cost.rounded()
    )


def main() -> None:
    parser = budget_parser(__doc__, sources=("mixmix",), num_images=1024, seeds="0")
    parser.add_argument("--networks", default=",".join(ZOOS["zoo"]))
    parser.add_argument("--max-macs", default="0.3,0.5")
    parser.add_argument("--recoveries", default="reconstruction")
    parser.add_argument("--importances", default="obs,taylor,magnitude")
    parser.add_argument("--min-shares", default="0.25")
    arguments = parser.parse_args()
    budget = budget_of(arguments, zoo="zoo-without-resnet44")
    path = arguments.out / "result.json"
    rows = read_json(path)["rows"] if path.exists() else []
    done = {tuple(row[name] for name in KEY) for row in rows}
    record = Record(path, QUESTION, KEY)
    for network, macs, recovery, importance, min_share, source, seed in itertools.product(
        arguments.networks.split(","),
        map(float, arguments.max_macs.split(",")),
        arguments.recoveries.split(","),
        arguments.importances.split(","),
        map(float, arguments.min_shares.split(",")),
        arguments.sources.split(","),
        numbers(arguments.seeds),
    ):
        row = {
            "model": network,
            "task": "prune",
            "setting": f"structured-{100 * (1 - macs):g}",
            "recovery": recovery,
            "importance": importance,
            "min_share": min_share,
            "images": source,
            "num_images": budget.num_images,
            "seed": seed,
        }
        if tuple(row[name] for name in KEY) in done:
            continue
        method = PruneChannels(
            max_macs=macs,
            importance=importance,
            min_share=min_share,
            recovery=RECOVERY_STEPS[recovery],
        )
        folder, _ = images_of(source, network, budget, seed=seed)
        found = in_fresh_process(measure, row, network, method, folder, budget, seed)
        record.add(found)
        print(*(found[name] for name in (*KEY, "divergence", "agreement")), flush=True)


if __name__ == "__main__":
    main()
