"""Does a change of the code's structure change its results? Digests of images, files and weights.

    python benchmarks/same_bits.py --out benchmarks/records/2026-11-27_same_bits
    python benchmarks/same_bits.py --check benchmarks/records/2026-11-27_same_bits

Bits depend on the processor, the number of threads and the versions of torch and numba, so run both
commands on the same machine. Metadata of exported files is ignored.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from harness.record import Record
from onnx import numpy_helper
from torch import Tensor

import mixmix
from mixmix import (
    AmortizedSettings,
    Compressed,
    Distill,
    FineTune,
    MixedPrecision,
    Prune,
    PruneChannels,
    Quantize,
    ReconstructFeatures,
    TrainingSettings,
    Zoo,
    compress,
    export,
    generate,
    recipe,
    synthesize,
    terms,
)
from mixmix.runtime.storage import read_json

_QUESTION = "Does a change of the code change any result?"
_KEY = ("model", "setting", "seed")
_ZOO = ["bundled:vgg", "bundled:mobilenetv2", "bundled:vovnet"]
_SHORT = TrainingSettings(steps=4, batch_size=16)


def digest_of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def digest_of_state(model: torch.nn.Module) -> str:
    """Parameters and buffers, in the order of their names."""
    state = ((name, t.reshape(-1)) for name, t in sorted(model.state_dict().items()))
    return digest_of_tensors(state)


def digest_of_onnx(path: Path) -> str:
    """Operations and constants in order, without the names of values."""
    graph = onnx.load(path).graph
    digest = hashlib.sha256()
    for node in graph.node:
        digest.update(node.op_type.encode())
    for initializer in sorted(numpy_helper.to_array(i).tobytes() for i in graph.initializer):
        digest.update(initializer)
    return digest.hexdigest()


def cases(folder: Path) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """Model, setting, and what makes its digest."""
    zoo = Zoo.load(_ZOO)
    images = synthesize(zoo, recipe("mixmix"), seed=0)
    few = synthesize(zoo, recipe("mixmix", num_images=32, batch_size=32, iterations=4), seed=1)
    labels = [("images", images.images), ("labels", images.labels)]
    yield "zoo", "images of the demo", lambda: digest_of_tensors(labels)
    yield (
        "zoo",
        "all terms, several members, scales",
        lambda: digest_of_tensors([("images", _all_terms(zoo).images)]),
    )
    yield "zoo", "amortized", lambda: digest_of_tensors([("images", _amortized(zoo).images)])

    def file(compressed: Compressed, name: str, **options: Any) -> str:
        artifact = export(compressed, folder / f"{name}.onnx", probe=images.images, **options)
        return digest_of_onnx(artifact.path)

    for model in ("resnet", "mobilenetv2"):
        for bits in ("W8A8", "W4A4", "W2A4"):
            yield (
                model,
                bits,
                lambda model=model, bits=bits: file(
                    compress(f"bundled:{model}", images, Quantize(bits), seed=0), f"{model}-{bits}"
                ),
            )
    yield (
        "vovnet",
        "mixed precision",
        lambda: file(
            compress("bundled:vovnet", few, MixedPrecision(max_size_ratio=0.15), seed=0), "mixed"
        ),
    )
    recovery = (ReconstructFeatures(iterations=4), FineTune(_SHORT))
    for model, setting, method in (
        ("resnet", "90% zeros", Prune(0.9, recovery=recovery)),
        ("mobilenetv2", "2:4", Prune(pattern="2:4", recovery=recovery)),
        ("resnet", "half of the MACs", PruneChannels(max_macs=0.5, recovery=recovery)),
        ("vgg", "distilled", Distill("bundled:resnet", training=_SHORT)),
    ):
        yield (
            model,
            setting,
            lambda model=model, method=method: digest_of_state(
                compress(f"bundled:{model}", few, method, seed=0).module
            ),
        )


def _all_terms(zoo: Zoo) -> mixmix.ImageSet:
    settings = recipe(
        "mixmix",
        num_images=32,
        batch_size=16,
        iterations=6,
        members_per_step=2,
        scales=(0.5, 1.0),
    )
    settings = settings.with_term(terms.L2(weight=0.1))
    settings = settings.with_term(
        terms.BatchNormDistance(distance="relative", first_multiplier=2.0)
    )
    return synthesize(zoo, settings, seed=2)


def _amortized(zoo: Zoo) -> mixmix.ImageSet:
    objective = recipe("mixmix").with_term(terms.Similarity(weight=10.0))
    settings = AmortizedSettings(batch_size=16, steps=3, terms=objective.terms)
    return generate(zoo, settings, num_images=32, seed=0, warmup_rounds=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the record to write")
    parser.add_argument("--check", type=Path, help="folder of the record to compare with")
    parser.add_argument(
        "--only", action="append", default=[], metavar="SETTING", help="a setting; repeatable"
    )
    arguments = parser.parse_args()
    if arguments.out is None and arguments.check is None:
        parser.error("give --out, --check or both")
    record = arguments.out and Record(arguments.out / "result.json", _QUESTION, _KEY)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model, setting, digest in cases(Path(folder)):
            if arguments.only and setting not in arguments.only:
                continue
            started = time.process_time()
            row: dict[str, Any] = {"model": model, "setting": setting, "seed": 0}
            row |= {"sha256": digest(), "cpu_seconds": round(time.process_time() - started, 1)}
            print(model, setting, row["sha256"][:16], flush=True)
            rows.append(row)
            if record is not None:
                record.add(row)
    if arguments.check is not None:
        sys.exit(compare(arguments.check, rows))


def compare(folder: Path, rows: list[dict[str, Any]]) -> int:
    """Print rows that differ from those of a record; 1 if any does."""
    earlier = {(r["model"], r["setting"]): r for r in read_json(folder / "result.json")["rows"]}
    differing = [r for r in rows if earlier[r["model"], r["setting"]]["sha256"] != r["sha256"]]
    for row in differing:
        print(f"differs: {row['model']}, {row['setting']}")
    print(f"{len(rows) - len(differing)} of {len(rows)} the same")
    return int(bool(differing))


if __name__ == "__main__":
    main()
