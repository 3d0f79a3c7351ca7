"""Does a limit of the loss choose nearly the smallest file that meets it?

``python benchmarks/search.py --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_search``

For each network and limit, ``mixmix.search`` chooses a file by estimates on 64 held-out images.
Files of 0.9, 0.8, ... times its size are then made by a limit of the size, until one really loses
more than the limit on the test split. The smallest that does not is the row's ``smallest``.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from estimates import NETWORKS, NUM_HELD_OUT, NUM_IMAGES, images_of
from harness.cifar10 import load_cifar10
from harness.networks import load_network
from harness.record import Record
from harness.threads import limit_threads

from mixmix import Model, evaluate
from mixmix.errors import InputError
from mixmix.search import Limits, search

QUESTION = "Does a limit of the loss choose nearly the smallest file that meets it?"
KEY = ("model", "setting", "seed")
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10")
    parser.add_argument("--work", type=Path, required=True, help="folder for images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--limits", default="1.0,3.0", help="points of accuracy")
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    limit_threads(1)
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    test = load_cifar10(arguments.data, split="test")
    seeds, limits = (
        [kind(each) for each in text.split(",")]
        for kind, text in ((int, arguments.seeds), (float, arguments.limits))
    )
    for seed, limit, network in product(seeds, limits, arguments.networks.split(",")):
        row = {"model": network, "task": "search", "setting": f"at most {limit:g}", "seed": seed}
        if row in record:
            continue
        model = Model(*load_network(network, arguments.weights_dir))
        before = evaluate(model, test).top1
        images, source = images_of(network, model, seed, arguments.work)
        images, held_out = images.split(NUM_IMAGES - NUM_HELD_OUT)
        started = time.process_time()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "chosen.onnx"
            found = search(model, images, held_out, Limits(max_loss=limit), path, seed=seed)
            seconds = time.process_time() - started
            lost = before - evaluate(found.artifact, test).top1
            smallest, sizes = found.chosen.size_bytes, {found.chosen.size_bytes: lost}
            for share in SHARES:
                size = Limits(max_size=f"{round(share * found.chosen.size_bytes)}B")
                try:
                    smaller = search(model, images, held_out, size, path, seed=seed)
                except InputError:  # no file is as small
                    break
                sizes[smaller.chosen.size_bytes] = before - evaluate(smaller.artifact, test).top1
                if sizes[smaller.chosen.size_bytes] > limit:
                    break
                smallest = smaller.chosen.size_bytes
        facts = {
            "images": source,
            "num_images": len(images),
            "num_test": len(test[1]),
            "float_top1": before,
            "chosen": found.chosen.setting,
            "size_bytes": found.chosen.size_bytes,
            "smallest": smallest,
            "lost": round(lost, 2),
            "bound": found.chosen.upper_bound,
            "sizes": {str(size): round(points, 2) for size, points in sizes.items()},
            "path": [step.to_dict() for step in found.path],
            "cpu_seconds": round(seconds, 1),
        }
        record.add(row | facts)
        print(
            f"{network} {limit:g} {seed}: {found.chosen.setting}, lost {lost:.2f}, "
            f"{found.chosen.size_bytes / smallest:.2f} of the smallest, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
