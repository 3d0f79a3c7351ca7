"""Make the bundled excerpt of CIFAR-10: ``python training/make_evaluation_pack.py --data DIR``.

It takes the first 100 test images of every class, in test order, and writes them lossless as
rows of 1,024 RGB pixels, with their labels, their indices in the test split and a hash.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from pathlib import Path

from PIL import Image

from mixmix.cifar10 import CIFAR10_CLASSES, load_cifar10
from mixmix.storage import write_atomic

NUM_PER_CLASS = 100
OUT = Path(__file__).parents[1] / "src" / "mixmix" / "assets" / "evaluation"


def first_of_each_class(labels: list[int], count: int) -> list[int]:
    """Indices of the first ``count`` images of every class, in increasing order."""
    seen = dict.fromkeys(range(len(CIFAR10_CLASSES)), 0)
    chosen = []
    for index, label in enumerate(labels):
        if seen[label] < count:
            seen[label] += 1
            chosen.append(index)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of CIFAR-10, in any known form")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    images, labels = load_cifar10(arguments.data, split="test")
    indices = first_of_each_class(labels.tolist(), NUM_PER_CLASS)
    rows = images[indices].permute(0, 2, 3, 1).reshape(len(indices), 1024, 3).numpy()
    picture = io.BytesIO()
    Image.fromarray(rows).save(picture, format="PNG", optimize=True)
    description = {
        "name": "first 100 test images of every CIFAR-10 class, in test order",
        "num_images": len(indices),
        "classes": list(CIFAR10_CLASSES),
        "sha256": hashlib.sha256(rows.tobytes()).hexdigest(),
        "labels": labels[indices].tolist(),
        "indices": indices,
    }
    # The hash is over the pixels, since another encoder gives other bytes for the same picture.
    write_atomic(arguments.out / "cifar10_test_1000.png", picture.getvalue())
    text = json.dumps(description) + "\n"
    write_atomic(arguments.out / "cifar10_test_1000.json", text.encode())
    print(f"{len(indices)} images, {picture.tell():,} bytes, sha256 {description['sha256']}")


if __name__ == "__main__":
    main()
