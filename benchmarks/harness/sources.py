"""Images from every source at one budget, made once and stored with their cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harness import mct
from harness.cifar10 import load_cifar10
from harness.clocks import Cost, in_fresh_process, stopwatch
from harness.networks import load_network
from mixmix import ImageSet, Zoo, generate, recipe, synthesize
from mixmix.demo.cifar10 import load_calibration_pack
from mixmix.runtime.seeding import generator
from mixmix.runtime.storage import read_json, write_json

__all__ = ["ZOOS", "Budget", "images_of"]

_BUNDLED = ("bundled:mobilenetv2", "bundled:resnet", "bundled:vgg", "bundled:vovnet")
# By name; one set of images serves all targets.
ZOOS = {
    "zoo": (*_BUNDLED, "resnet20", "resnet44"),
    "zoo-without-resnet44": (*_BUNDLED, "resnet20"),
    "zoo-without-resnet20": (*_BUNDLED, "resnet44"),
}
_OF_THE_ZOO = ("mixmix", "mixmix-unrefined", "feature-mixing")
_OF_NO_NETWORK = ("real", "noise")


@dataclass(frozen=True)
class Budget:
    """Where things are, and how much of everything there is.

    Attributes:
        weights_dir: folder with ``resnet20.safetensors`` and ``resnet44.safetensors``.
        data: CIFAR-10.
        work: images and results of finished cells; what is there is not made again.
        num_images: from every source.
        iterations: of every recipe of mixmix's own engine; None for its default.
        zoo: name of the networks that recipes of several networks invert.
        mct_python: interpreter of an environment with model-compression-toolkit, or None.
    """

    weights_dir: Path
    data: Path
    work: Path
    num_images: int = 256
    iterations: int | None = None
    zoo: str = "zoo"
    mct_python: str | None = None


def images_of(source: str, network: str, budget: Budget, *, seed: int) -> tuple[Path, int]:
    """A folder of images, made if it is not there yet, with ``cost.json`` inside.

    Returns:
        The folder, and the seed that the images were made with. Model-compression-toolkit makes
        one set for each network, since it takes long; its quantizations have seeds of their own.
    """
    if source == "mct":
        seed = 0
    if source == "mixmix" and network not in ZOOS[budget.zoo]:
        return _refined(network, budget, seed=seed), seed
    if source == "mixmix-half-generated":
        return _half_generated(network, budget, seed=seed), seed
    if source == "mixmix-unrefined":
        source = "mixmix"
    of = budget.zoo if source in _OF_THE_ZOO else "none" if source in _OF_NO_NETWORK else network
    name = f"{source}-{of.replace(':', '-')}-{budget.num_images}-seed{seed}"
    if budget.iterations is not None:
        name += f"-{budget.iterations}"
    folder = budget.work / "images" / name
    if not (folder / "cost.json").exists():
        if source == "mct":
            _generate_with_mct(folder, network, budget, seed)
        else:
            in_fresh_process(_make, source, network, folder, budget, seed)
    return folder, seed


def _refined(network: str, budget: Budget, *, seed: int) -> Path:
    """The zoo's images fitted to a network outside it; their cost is that of both steps."""
    before, _ = images_of("mixmix-unrefined", network, budget, seed=seed)
    folder = before.with_name(f"{before.name}-for-{network.replace(':', '-')}")
    if not (folder / "cost.json").exists():
        in_fresh_process(_refine, network, before, folder, budget, seed)
    return folder


def _refine(network: str, before: Path, folder: Path, budget: Budget, seed: int) -> None:
    start, settings = ImageSet.load(before), recipe("refine")
    zoo = Zoo.load([load_network(network, budget.weights_dir)])
    with stopwatch() as cost:
        synthesize(zoo, settings, seed=seed, start=start, out=folder)
    _write_total(folder, before, cost, refined={"iterations": settings.iterations})


def _write_total(folder: Path, before: Path, cost: Cost, **about: Any) -> None:
    """What a folder cost: that of the images that it was made from, and what was added."""
    earlier = read_json(before / "cost.json")
    total = {key: round(value + earlier[key], 2) for key, value in cost.rounded().items()}
    write_json(folder / "cost.json", earlier | total | about)


def _half_generated(network: str, budget: Budget, *, seed: int) -> Path:
    """Half of them pixels of ``mixmix``, half generated from the zoo and the network itself."""
    half = replace(budget, num_images=budget.num_images // 2)
    pixels, _ = images_of("mixmix", network, half, seed=seed)
    folder = pixels.with_name(f"{pixels.name}-and-generated-for-{network.replace(':', '-')}")
    if not (folder / "cost.json").exists():
        in_fresh_process(_add_generated, network, pixels, folder, half, seed)
    return folder


def _add_generated(network: str, pixels: Path, folder: Path, budget: Budget, seed: int) -> None:
    names = dict.fromkeys((network, *ZOOS[budget.zoo]))
    zoo = Zoo.load([load_network(name, budget.weights_dir) for name in names])
    with stopwatch() as cost:
        generated = generate(zoo, num_images=budget.num_images, seed=seed)
    ImageSet.join([ImageSet.load(pixels), generated]).save(folder)
    _write_total(folder, pixels, cost, generated=len(generated))


def _make(source: str, network: str, folder: Path, budget: Budget, seed: int) -> None:
    about: dict[str, Any] = {"zoo": [], "iterations": 0}
    cost = Cost()
    if source == "real":
        _as_dataset(_real_images(budget, seed)).save(folder)
    else:
        names = ZOOS[budget.zoo] if source in _OF_THE_ZOO else (network,)
        zoo = Zoo.load([load_network(name, budget.weights_dir) for name in names])
        changes: dict[str, Any] = {"num_images": budget.num_images}
        if budget.iterations is not None and source != "noise":
            changes["iterations"] = budget.iterations
        settings = recipe(source, **changes)
        with stopwatch() as cost:
            synthesize(zoo, settings, seed=seed, out=folder)
        about = {"iterations": settings.iterations}
        about["zoo"] = [] if source == "noise" else list(zoo.names)
    write_json(folder / "cost.json", cost.rounded() | about)


def _real_images(budget: Budget, seed: int) -> torch.Tensor:
    """Images of the training split: the bundled ones, or as many others as are asked for."""
    if seed == 0 and budget.num_images <= len(load_calibration_pack()):
        return load_calibration_pack()[: budget.num_images]
    pixels = load_cifar10(budget.data, split="train")[0]
    order = torch.randperm(len(pixels), generator=generator(seed, "real images"))
    return pixels[order[: budget.num_images]].float() / 255


def _generate_with_mct(folder: Path, network: str, budget: Budget, seed: int) -> None:
    assert budget.mct_python is not None
    path = budget.work / "mct" / f"{folder.name}.safetensors"
    mct.make_images(
        path,
        network,
        interpreter=budget.mct_python,
        weights_dir=budget.weights_dir,
        num_images=budget.num_images,
        iterations=budget.iterations,
        seed=seed,
    )
    _as_dataset(mct.read_images(path)).save(folder)
    write_json(folder / "cost.json", read_json(path.with_suffix(".json")))


def _as_dataset(images: torch.Tensor) -> ImageSet:
    """Without labels, which post-training quantization does not look at."""
    count = len(images)
    return ImageSet(
        images, torch.zeros(count, dtype=torch.long), torch.zeros(count, 0), {"models": []}
    )
