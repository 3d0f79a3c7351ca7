"""How well do images from networks with BatchNorm serve networks without it?

``python benchmarks/without_batch_norm.py --data CIFAR10 --work WORK
--out benchmarks/records/DATE_without_batch_norm``

The images come from mixmix on the four bundled networks with BatchNorm, from other recipes on one
of them (``resnet``), or from the training split, in equal numbers. A run adds the missing rows to
an existing record.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.cifar10 import load_cifar10
from harness.record import Record
from harness.threads import limit_threads

from mixmix import ImageSet, Quantize, Zoo, compress, evaluate, export, load, recipe, synthesize
from mixmix.demo.bundled import bundled_members

QUESTION = "How well do images of networks with BatchNorm serve networks that have none?"
KEY = ("model", "setting", "images", "seed")
NUM_IMAGES = 256
SOURCES = ("mixmix", "deepinversion", "zeroq", "real")
SETTINGS = ("W8A8", "W4A8", "W4A4")


def images_of(source: str, seed: int, data: Path, work: Path) -> tuple[ImageSet, list[str]]:
    """As many images as all others, and the names of the networks that they are made from."""
    if source == "real":
        images, labels = load_cifar10(data, split="train")
        first = seed * NUM_IMAGES
        chosen = slice(first, first + NUM_IMAGES)
        soft = labels[chosen, None] == labels.new_tensor(range(10))
        pixels = images[chosen].float() / 255
        return ImageSet(pixels, labels[chosen], soft.float(), {}), []
    names = list(bundled_members()) if source == "mixmix" else ["resnet"]
    zoo = Zoo.load([f"bundled:{name}" for name in names])
    settings = recipe(source, num_images=NUM_IMAGES)
    return synthesize(zoo, settings, seed=seed, out=work / f"{source}-{seed}"), names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10")
    parser.add_argument("--work", type=Path, required=True, help="folder for images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", default="vit,convnext")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    limit_threads(arguments.threads)
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    test = load_cifar10(arguments.data, split="test")
    for network in arguments.networks.split(","):
        target = load(f"bundled:{network}")
        common = {"model": network, "task": "quantize", "num_test": len(test[1])}
        untouched = common | {"setting": "float", "images": "float", "seed": 0}
        if untouched not in record:
            record.add(untouched | {"top1": evaluate(target, test).top1})
        for seed in map(int, arguments.seeds.split(",")):
            for setting in arguments.settings.split(","):
                for source in arguments.sources.split(","):
                    cell = common | {"setting": setting, "images": source, "seed": seed}
                    if cell in record:
                        continue
                    data, names = images_of(source, seed, arguments.data, arguments.work)
                    started = time.process_time()
                    compressed = compress(target, data, Quantize(setting), seed=seed)
                    seconds = time.process_time() - started
                    with TemporaryDirectory() as folder:
                        artifact = export(
                            compressed, Path(folder) / "model.onnx", probe=data.images[:100]
                        )
                        evaluation = evaluate(artifact, test, reference=target)
                    row = cell | {
                        "num_images": len(data),
                        "zoo": names,
                        "top1": evaluation.top1,
                        "agreement": evaluation.agreement,
                        "cpu_seconds": round(seconds, 1),
                        "size_bytes": artifact.size_bytes,
                    }
                    record.add(row)
                    print(network, setting, source, seed, f"{evaluation.top1:.2f}", flush=True)


if __name__ == "__main__":
    main()
