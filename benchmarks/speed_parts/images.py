"""Images of every kind for one target, made once and stored with their cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from harness import mct
from harness.clocks import Cost, in_fresh_process, stopwatch
from harness.networks import load_network
from torch import Tensor

from mixmix import ImageSet, Model, Zoo, recipe, synthesize
from mixmix.demo.bundled import bundled_members
from mixmix.demo.cifar10 import load_calibration_pack
from mixmix.runtime.storage import read_json, read_tensors, write_json, write_tensors
from speed_parts.options import Options
from speed_parts.peers import PEERS, generate

__all__ = ["CLIPPED", "KINDS", "as_dataset", "images_of", "path_of"]

CLIPPED = "-clipped"
# The slow ones last. Loops that leave the range of pixels are shown with and without clipping.
KINDS = (
    "mixmix",
    "mixmix-longer",
    "mixmix-without-target",
    "real",
    "zeroq",
    f"zeroq{CLIPPED}",
    "mct",
    "deepinversion",
    f"deepinversion{CLIPPED}",
    "genie",
    f"genie{CLIPPED}",
)


def images_of(kind: str, options: Options, *, seed: int, iterations: int | None = None) -> Path:
    """The file of images of one kind; beside it, a ``.json`` with their cost.

    Args:
        iterations: steps per batch, instead of the default of mixmix or the published number.
    """
    path = path_of(kind, options, seed=seed, iterations=iterations)
    if path.exists() and path.with_suffix(".json").exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind.endswith(CLIPPED):
        _clip(images_of(kind.removesuffix(CLIPPED), options, seed=seed), path)
    elif kind == "mct":
        assert options.mct_python is not None
        mct.make_images(
            path,
            "resnet20",
            interpreter=options.mct_python,
            weights_dir=options.weights_dir,
            num_images=32 if options.quick else options.num_images,
            iterations=2 if options.quick else None,
            seed=seed,
        )
    else:
        # Public loops run as they are; mixmix as its command line sets it up.
        kept = kind not in PEERS
        in_fresh_process(_make, kind, path, options, seed, iterations, keep_memory=kept)
    return path


def path_of(kind: str, options: Options, *, seed: int, iterations: int | None = None) -> Path:
    """Where ``images_of`` puts them."""
    steps = "" if iterations is None else f"-{iterations}"
    count = "" if options.num_images == Options.num_images else f"-{options.num_images}images"
    quick = "-quick" * options.quick
    return options.work / "images" / f"{kind}{steps}{count}-seed{seed}{quick}.safetensors"


def as_dataset(path: Path, target: Model) -> ImageSet:
    """Images with the target's own labels, which quantization does not look at."""
    images = read_tensors(path)[0]["images"]
    with torch.no_grad():
        soft_labels = torch.cat([target(batch).softmax(1) for batch in images.split(256)])
    return ImageSet(images, soft_labels.argmax(1), soft_labels, {})


def _clip(origin: Path, path: Path) -> None:
    write_tensors(path, {"images": read_tensors(origin)[0]["images"].clamp(0, 1)})
    write_json(path.with_suffix(".json"), read_json(origin.with_suffix(".json")))


def _make(kind: str, path: Path, options: Options, seed: int, iterations: int | None) -> None:
    if kind == "real":
        images, cost, about = load_calibration_pack()[: options.num_images], Cost(), {}
    elif kind in PEERS:
        images, cost, about = _make_peer(kind, path, options, seed, iterations)
    else:
        images, cost, about = _make_mixmix(kind, options, seed, iterations)
    write_tensors(path, {"images": images})
    about["threads"] = torch.get_num_threads()
    write_json(path.with_suffix(".json"), asdict(cost) | about)


def _make_mixmix(
    kind: str, options: Options, seed: int, iterations: int | None
) -> tuple[Tensor, Cost, dict[str, Any]]:
    members: list[Any] = [f"bundled:{name}" for name in bundled_members()]
    if kind != "mixmix-without-target":
        members.append(load_network("resnet20", options.weights_dir))
    zoo = Zoo.load(members)
    changes = {"num_images": options.num_images}
    if options.quick:
        changes = {"iterations": 2, "num_images": 32, "batch_size": 32}
    if kind == "mixmix-longer":
        iterations = 2 * recipe("mixmix").iterations
    if iterations is not None and not options.quick:
        changes["iterations"] = iterations
    settings = recipe("mixmix", **changes)
    with stopwatch() as cost:
        data = synthesize(zoo, settings, seed=seed)
    about = {"zoo": list(zoo.names), "iterations": settings.iterations}
    return data.images, cost, about


def _make_peer(
    kind: str, path: Path, options: Options, seed: int, iterations: int | None
) -> tuple[Tensor, Cost, dict[str, Any]]:
    model, spec = load_network("resnet20", options.weights_dir)
    steps = 2 if options.quick else iterations or PEERS[kind].iterations
    images, cost = generate(
        kind,
        model,
        spec,
        path.with_suffix(""),
        num_images=32 if options.quick else options.num_images,
        iterations=steps,
        seed=seed,
    )
    return images, cost, {"zoo": [spec.name], "iterations": steps}
