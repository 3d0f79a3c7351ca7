"""How well is the loss of accuracy known without data?

``python benchmarks/estimates.py --weights-dir WEIGHTS --data CIFAR10 --work WORK
--out benchmarks/records/DATE_estimates``

Images are made from the compressed network alone, or (``zoo``, at every third seed, and for
networks without BatchNorm) from the four bundled ones with BatchNorm. 64 of them are held out. A
run adds the missing rows to an existing record; the logits that estimates are computed from are
kept in WORK. ``draw_loss_bounds.py`` draws the table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from harness.cifar10 import load_cifar10
from harness.networks import load_network
from harness.record import Record
from harness.threads import limit_threads
from torch import Tensor

from mixmix import (
    ImageSet,
    Method,
    Model,
    Prune,
    PruneChannels,
    Quantize,
    Zoo,
    compress,
    recipe,
    synthesize,
)
from mixmix.demo.bundled import bundled_members
from mixmix.evaluate.estimation import estimate_accuracy
from mixmix.runtime.storage import write_tensors

QUESTION = "How well is the loss of accuracy known without data?"
KEY = ("model", "setting", "seed")
NUM_IMAGES, NUM_HELD_OUT = 256, 64
NETWORKS = (
    *("bundled:resnet", "bundled:mobilenetv2", "resnet20", "bundled:vgg"),
    *("bundled:vovnet", "bundled:vit", "bundled:convnext", "resnet44"),
)
SETTINGS: dict[str, Method] = {
    **{bits: Quantize(bits) for bits in ("W2A4", "W3A3", "W4A4", "W4A8", "W8A8")},
    "W2A8": Quantize("W2A8"),
    **{f"{100 * s:g}% zeros": Prune(s, rounds=1) for s in (0.9, 0.8, 0.7, 0.5)},
    "30% fewer MACs": PruneChannels(max_macs=0.7),
}


def images_of(name: str, model: Model, seed: int, work: Path) -> tuple[ImageSet, str]:
    """Images for a network, and what they are made from."""
    if seed % 3 == 1 or not model.batch_norms:
        zoo = Zoo.load([f"bundled:{each}" for each in bundled_members()])
        source = "zoo"
    else:
        zoo, source = Zoo([model]), "own"
    folder = work / f"{source if source == 'zoo' else name.replace(':', '-')}-{seed}"
    return synthesize(zoo, recipe("mixmix", num_images=NUM_IMAGES), seed=seed, out=folder), source


@torch.no_grad()
def logits_of(model: Model, images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(250)])


def cells(arguments: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    for seed in map(int, arguments.seeds.split(",")):
        for setting in arguments.settings.split(","):
            for network in arguments.networks.split(","):
                yield network, setting, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10")
    parser.add_argument("--work", type=Path, required=True, help="folder for images and logits")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--settings", default=",".join(SETTINGS), help="from hard to easy")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--num-test", type=int, default=10000, help="first images of the split")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    limit_threads(arguments.threads)
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    pixels, labels = load_cifar10(arguments.data, split="test")
    test, labels = pixels[: arguments.num_test].float() / 255, labels[: arguments.num_test]
    truths: dict[str, Tensor] = {}
    for network, setting, seed in cells(arguments):
        row = {"model": network, "task": "estimate", "setting": setting, "seed": seed}
        if row in record:
            continue
        model = Model(*load_network(network, arguments.weights_dir))
        images, source = images_of(network, model, seed, arguments.work)
        images, held_out = images.split(NUM_IMAGES - NUM_HELD_OUT)
        started = time.process_time()
        compressed = compress(model, images, SETTINGS[setting], seed=seed)
        seconds = time.process_time() - started
        small = Model(compressed.module, compressed.spec)
        if network not in truths:
            truths[network] = logits_of(model, test)
        after = logits_of(small, test)
        estimate = estimate_accuracy(compressed, model, held_out)
        tensors = {
            "reference": logits_of(model, held_out.images),
            "compressed": logits_of(small, held_out.images),
            "soft_labels": held_out.soft_labels,
            "seen_reference": logits_of(model, images.images),
            "seen_compressed": logits_of(small, images.images),
            "test_reference": truths[network],
            "test_compressed": after,
        }
        name = f"{network.replace(':', '-')}_{setting.replace(' ', '-')}_{seed}.safetensors"
        path = arguments.work / "logits" / name
        write_tensors(path, {key: value.contiguous() for key, value in tensors.items()})
        before = 100 * float((truths[network].argmax(1) == labels).double().mean())
        top1 = 100 * float((after.argmax(1) == labels).double().mean())
        facts = {
            "images": source,
            "num_images": len(images),
            "num_test": len(labels),
            "float_top1": before,
            "top1": top1,
            "agreement": 100
            * float((after.argmax(1) == truths[network].argmax(1)).double().mean()),
            "estimate": estimate.to_dict(),
            "logits": name,
            "cpu_seconds": round(seconds, 1),
        }
        record.add(row | facts)
        print(
            f"{network} {setting} {seed}: lost {before - top1:.2f}, predicted "
            f"{estimate.predicted_drop:.2f}, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
