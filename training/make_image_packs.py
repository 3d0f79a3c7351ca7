"""Make the bundled excerpts of CIFAR-10.

    PYTHONPATH=benchmarks python training/make_image_packs.py --data DIR

The evaluation pack is the first 100 test images of every class; the calibration pack, for the rows
named ``real``, the first 256 images of the training split. Both are in the order of their split,
written lossless as rows of 1,024 RGB pixels beside their labels, indices and a hash.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from pathlib import Path

from harness.cifar10 import CIFAR10_CLASSES, load_cifar10
from PIL import Image
from torch import Tensor

from mixmix.runtime.storage import write_atomic

NUM_PER_CLASS = 100
NUM_CALIBRATION = 256
OUT = Path(__file__).parents[1] / "src" / "mixmix" / "demo" / "assets" / "evaluation"


def first_of_each_class(labels: list[int], count: int) -> list[int]:
    """Indices of the first ``count`` images of every class, in increasing order."""
    seen = dict.fromkeys(range(len(CIFAR10_CLASSES)), 0)
    chosen = []
    for index, label in enumerate(labels):
        if seen[label] < count:
            seen[label] += 1
            chosen.append(index)
    return chosen


def write_pack(path: Path, name: str, images: Tensor, labels: Tensor, indices: list[int]) -> None:
    """Write the chosen images as ``path`` (a PNG) and their description beside it."""
    rows = images[indices].permute(0, 2, 3, 1).reshape(len(indices), 1024, 3).numpy()
    picture = io.BytesIO()
    Image.fromarray(rows).save(picture, format="PNG", optimize=True)
    description = {
        "name": name,
        "num_images": len(indices),
        "classes": list(CIFAR10_CLASSES),
        "sha256": hashlib.sha256(rows.tobytes()).hexdigest(),
        "labels": labels[indices].tolist(),
        "indices": indices,
    }
    # The hash is over the pixels, since another encoder gives other bytes for the same picture.
    write_atomic(path, picture.getvalue())
    write_atomic(path.with_suffix(".json"), (json.dumps(description) + "\n").encode())
    print(f"{path.name}: {len(indices)} images, {picture.tell():,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of CIFAR-10, in any known form")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    images, labels = load_cifar10(arguments.data, split="test")
    write_pack(
        arguments.out / "cifar10_test_1000.png",
        "first 100 test images of every CIFAR-10 class, in test order",
        images,
        labels,
        first_of_each_class(labels.tolist(), NUM_PER_CLASS),
    )
    images, labels = load_cifar10(arguments.data, split="train")
    write_pack(
        arguments.out / "cifar10_train_256.png",
        "first 256 training images of CIFAR-10",
        images,
        labels,
        list(range(NUM_CALIBRATION)),
    )


if __name__ == "__main__":
    main()
