"""What is measured: EfficientNet-Lite0 with few bits, on images of other networks and of itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["SETTINGS", "SOURCES", "TARGET", "Cell", "all_cells"]

TARGET = "imagenet:efficientnet_lite0"
_OTHERS = ("imagenet:efficientnet_lite1", "imagenet:efficientnet_lite2")
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
        setting: bits of ``TARGET``.
        source: one of ``SOURCES``.
        seed: of synthesis and of quantization.
    """

    setting: str
    source: str
    seed: int

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
