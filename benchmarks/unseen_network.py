"""How well do images of the bundled networks serve a network that somebody else trained?

``python benchmarks/unseen_network.py --weights resnet20.safetensors --depth 20 --data CIFAR10
--out benchmarks/records/DATE_unseen_network``
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from cifar_resnet import load_resnet

from mixmix import Quantize, Zoo, compress, evaluate, export, recipe, synthesize
from mixmix.cifar10 import load_cifar10
from mixmix.reporting import benchmark_record
from mixmix.storage import write_json
from mixmix.zoo import Teacher, bundled_members

QUESTION = "How well do images of the bundled networks serve a network that somebody else trained?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10, for its test split")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    target = Teacher(*load_resnet(arguments.weights, arguments.depth))
    zoos = {
        "mixmix": Zoo.load([f"bundled:{name}" for name in bundled_members()]),
        "deepinversion": Zoo([target]),
    }
    test = load_cifar10(arguments.data, split="test")
    reference = evaluate(target, test)
    common = {"model": target.spec.name, "task": "quantize", "num_test": reference.num_images}
    rows = [common | {"setting": "float", "images": "float", "top1": reference.top1}]
    for seed in range(arguments.seeds):
        for images, zoo in zoos.items():
            started = time.process_time()
            data = synthesize(zoo, recipe(images), seed=seed)
            synthesis_seconds = time.process_time() - started
            for setting in ("W8A8", "W4A4", "W2A4"):
                started = time.process_time()
                compressed = compress(target, data, Quantize(setting), seed=seed)
                seconds = time.process_time() - started
                with TemporaryDirectory() as folder:
                    artifact = export(
                        compressed, Path(folder) / "model.onnx", probe=data.images[:100]
                    )
                    evaluation = evaluate(artifact, test, reference=target)
                rows.append(
                    common
                    | {
                        "setting": setting,
                        "images": images,
                        "num_images": len(data),
                        "zoo": list(zoo.names),
                        "seed": seed,
                        "top1": evaluation.top1,
                        "agreement": evaluation.agreement,
                        "cpu_seconds": round(seconds, 1),
                        "synthesis_cpu_seconds": round(synthesis_seconds, 1),
                        "size_bytes": artifact.size_bytes,
                    }
                )
                print(setting, images, seed, f"{evaluation.top1:.2f}", flush=True)
                arguments.out.mkdir(parents=True, exist_ok=True)
                command = f"python {shlex.join(sys.argv)}"
                write_json(arguments.out / "result.json", benchmark_record(QUESTION, command, rows))


if __name__ == "__main__":
    main()
