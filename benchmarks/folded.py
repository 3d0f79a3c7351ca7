"""What can a network alone be given, whose BatchNorm is folded into its layers?

``python benchmarks/folded.py --data CIFAR10 --photographs FOLDER --work WORK
--out benchmarks/records/DATE_folded``

Every bundled network is exported to ONNX, which folds its BatchNorm, and only this file is used:
``mixmix`` is the recipe for such networks, ``labels`` the default recipe, of which only the labels
remain. ``unfolded`` is the same network with its BatchNorm, alone, with the default recipe.
``photographs`` are other ones than the network was trained on, shrunk; ``real`` is the training
split. The hardest cells come first; a run adds the missing rows to an existing record.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from harness.cifar10 import load_cifar10
from harness.record import Record
from harness.threads import limit_threads
from imagenet_parts.images import load_photographs

from mixmix import ImageSet, Model, Quantize, compress, evaluate, export, load, recipe, synthesize
from mixmix.runtime.seeding import generator
from mixmix.runtimes.float_onnx import float_onnx_bytes

QUESTION = "What can a network alone be given, whose BatchNorm is folded into its layers?"
KEY = ("model", "setting", "images", "seed")
NUM_IMAGES = 256
NETWORKS = ("mobilenetv2", "resnet", "vovnet", "vgg", "convnext", "vit")
SETTINGS = ("W4A4", "W4A8", "W8A8")
RECIPES = {
    "mixmix": "without-batch-norm",
    "procedural": "procedural",
    "noise": "noise",
    "labels": "mixmix",
    "unfolded": "mixmix",
}
SOURCES = ("mixmix", "noise", "real", "procedural", "photographs", "labels", "unfolded")


def folded(network: str, work: Path) -> Model:
    """The network as its exported file has it, without BatchNorm."""
    whole = load(f"bundled:{network}")
    path = work / f"{network}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(float_onnx_bytes(whole.module, whole.spec.input_shape, name=network))
    alone = load(str(path), mean=whole.spec.mean, std=whole.spec.std)
    assert not alone.batch_norms, f"the exporter kept the BatchNorm of {network}"
    return alone


def images_of(source: str, alone: Model, network: str, seed: int, folders: argparse.Namespace):
    """As many images for all sources."""
    if source in RECIPES:
        inverted = load(f"bundled:{network}") if source == "unfolded" else alone
        settings = recipe(RECIPES[source], num_images=NUM_IMAGES)
        out = folders.work / "images" / f"{network}-{source}-{seed}"
        return synthesize([inverted], settings, seed=seed, out=out, threads=1)
    if source == "real":
        pixels, labels = load_cifar10(folders.data, split="train")
    else:
        pixels, labels = load_photographs(folders.photographs, alone.spec.input_shape[1])
        labels = alone.logits(pixels.float() / 255).argmax(1)  # their own classes are others
    chosen = torch.randperm(len(pixels), generator=generator(seed, source))[:NUM_IMAGES]
    soft = torch.full((len(chosen), alone.spec.num_classes), 1 / alone.spec.num_classes)
    return ImageSet(pixels[chosen].float() / 255, labels[chosen], soft, {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10")
    parser.add_argument("--photographs", type=Path, required=True, help="folder of JPEGs")
    parser.add_argument("--work", type=Path, required=True, help="folder for files and images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    limit_threads(1)
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    test = load_cifar10(arguments.data, split="test")
    names = {key: getattr(arguments, key).split(",") for key in ("networks", "settings", "sources")}
    for network in names["networks"]:
        row = {"model": network, "task": "quantize", "setting": "float", "images": "float"}
        if row | {"seed": 0} not in record:
            top1 = evaluate(folded(network, arguments.work), test).top1
            record.add(row | {"seed": 0, "num_test": len(test[1]), "top1": top1})
    seeds = list(map(int, arguments.seeds.split(",")))
    for setting, seed, network in product(names["settings"], seeds, names["networks"]):
        alone = folded(network, arguments.work)
        for source in names["sources"]:
            cell = {"model": network, "task": "quantize", "setting": setting, "images": source}
            cell |= {"seed": seed, "num_test": len(test[1])}
            has_none = source == "unfolded" and not load(f"bundled:{network}").batch_norms
            if cell in record or has_none:
                continue
            started = time.process_time()
            data = images_of(source, alone, network, seed, arguments)
            made = time.process_time()
            compressed = compress(alone, data, Quantize(setting), seed=seed)
            quantized = time.process_time()
            with TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                artifact = export(compressed, path, probe=data.images[:100])
                evaluation = evaluate(artifact, test, reference=alone)
            record.add(
                cell
                | {
                    "num_images": len(data),
                    "top1": evaluation.top1,
                    "agreement": evaluation.agreement,
                    "synthesis_cpu_seconds": round(made - started, 1),
                    "cpu_seconds": round(quantized - made, 1),
                    "size_bytes": artifact.size_bytes,
                }
            )
            print(network, setting, source, seed, f"{evaluation.top1:.2f}", flush=True)


if __name__ == "__main__":
    main()
