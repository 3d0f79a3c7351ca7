"""Options of the parts: folders, seeds, amount of work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """Attributes:
    weights_dir: folder with ``resnet20.safetensors`` and ``resnet44.safetensors``.
    data: CIFAR-10.
    work: images and results of finished steps; what is there is not made again.
    seeds: of synthesis and of quantization.
    repeats: timed rounds where contenders take turns.
    quick: little of everything, to see that it runs; the rows say so.
    images: kinds of images of part b, or all.
    networks: networks of part a, or all.
    mct_python: interpreter of an environment with model-compression-toolkit.
    num_images: of every kind of part b, of d and of the curve.
    """

    weights_dir: Path
    data: Path
    work: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    repeats: int = 7
    quick: bool = False
    images: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    mct_python: str | None = None
    num_images: int = 256
