"""Cells: EfficientNet-Lite0, quantized or pruned, on images from itself or other networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pruning_parts import cells as pruning

from mixmix import FineTune, Method, Quantize, ReconstructionSettings

__all__ = ["SETTINGS", "SOURCES", "TARGET", "Cell", "all_cells", "method_of"]

TARGET = "imagenet:efficientnet_lite0"
_OTHERS = ("imagenet:efficientnet_lite1", "imagenet:efficientnet_lite2")
# Bits, or what is pruned and how that is recovered from, as in ``pruning_parts.cells``.
SETTINGS = ("W4A8", "W8A8", "W4A4")
# The networks that images are made from; none for noise.
SOURCES: dict[str, tuple[str, ...]] = {
    "all three": (TARGET, *_OTHERS),
    "lite1 + lite2": _OTHERS,
    "itself": (TARGET,),
    "noise": (),
}


@dataclass(frozen=True)
class Cell:
    """One number of the table.

    Attributes:
        setting: bits of ``TARGET``, or for example ``channels-20%:reconstruction``.
        source: one of ``SOURCES``.
        seed: of synthesis and of compression.
    """

    setting: str
    source: str
    seed: int

    @property
    def what(self) -> str:
        """Bits, or what is pruned."""
        return self.setting.partition(":")[0]

    @property
    def recovery(self) -> str:
        """From pruning; empty where it is quantized."""
        return self.setting.partition(":")[2]

    @property
    def task(self) -> str:
        return "prune" if self.recovery else "quantize"

    @property
    def name(self) -> str:
        return f"{self.setting}-{self.source.replace(' ', '')}-seed{self.seed}"


def all_cells(
    *, settings: Sequence[str], sources: Sequence[str], seeds: Sequence[int]
) -> Iterator[Cell]:
    """Every cell: source by source, since images take longest."""
    for seed in seeds:
        for source in sources:
            for setting in settings:
                yield Cell(setting, source, seed)


def method_of(cell: Cell, *, reconstruction: int | None, steps: int | None) -> Method:
    """How ``TARGET`` is compressed: at the defaults of the library, but for what is given.

    Args:
        cell: of the table.
        reconstruction: iterations for each block of a quantized network.
        steps: of fine-tuning a pruned one.
    """
    if cell.recovery:
        training = FineTune().training
        if steps is not None:
            training = replace(training, steps=steps)
        return pruning.method_of(cell.what, cell.recovery, training=training)
    if reconstruction is None:
        return Quantize(cell.what)
    return Quantize(cell.what, reconstruction=ReconstructionSettings(iterations=reconstruction))
