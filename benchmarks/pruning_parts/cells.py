"""Cells of (network, setting, images, recovery, seed), the hardest first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mixmix import (
    FineTune,
    Method,
    Prune,
    PruneBlocks,
    PruneChannels,
    ReconstructFeatures,
    Recovery,
    ReestimateBatchNorm,
)
from pruning_parts.plain import PruneAndTrain

__all__ = [
    "GENERATED",
    "NETWORKS",
    "RECOVERIES",
    "RECOVERY_STEPS",
    "SETTINGS",
    "SOURCES",
    "Cell",
    "all_cells",
    "is_structured",
    "method_of",
]

NETWORKS = ("resnet44", "bundled:mobilenetv2")
# Shares of zeros, a pattern, and shares of the multiply-accumulate operations that are removed with
# channels or residual blocks; where so many are that it is as many times faster, too, that is told.
SETTINGS = (
    "unstructured-95%",
    "channels-70%",
    "unstructured-90%",
    "channels-50%-1.62x",
    "blocks-50%-1.65x",
    "channels-50%",
    "2:4",
    "unstructured-80%",
    "channels-30%",
)
# The second has as many images, half of them generated; the third, ``GENERATED``, goes on making
# images while the network is fine-tuned.
SOURCES = (
    "mixmix",
    "mixmix-half-generated",
    "mixmix-generated",
    "real",
    "deepinversion",
    "zeroq",
    "noise",
)
GENERATED = "mixmix-generated"
RECOVERY_STEPS: dict[str, tuple[Recovery, ...]] = {
    "bn": (ReestimateBatchNorm(),),
    "reconstruction": (ReconstructFeatures(),),
    "fine-tuning": (ReconstructFeatures(), FineTune()),
}
# What is done without mixmix, on the same images; see ``PruneAndTrain``. It trains on as many views
# of images as ``Prune`` does in all of its rounds, and twice as many as ``PruneChannels``.
PLAIN = "plain"
_PLAIN_EPOCHS = 75
RECOVERIES = (*RECOVERY_STEPS, PLAIN)


@dataclass(frozen=True)
class Cell:
    """One number of the table.

    Attributes:
        network: what is pruned; see ``harness.networks.load_network``.
        setting: one of ``SETTINGS``.
        source: of the images.
        recovery: one of ``RECOVERIES``.
        seed: of synthesis and of recovery.
    """

    network: str
    setting: str
    source: str
    recovery: str
    seed: int

    @property
    def name(self) -> str:
        network, setting = self.network.replace(":", "-"), self.setting.replace(":", "-")
        return f"{network}-{setting}-{self.recovery}-{self.source}-seed{self.seed}"


def all_cells(
    *,
    networks: Sequence[str],
    settings: Sequence[str],
    recoveries: Sequence[str],
    sources: Sequence[str],
    seeds: Sequence[int],
) -> Iterator[Cell]:
    """Every cell: seed by seed, settings from hard to easy, all sources of images in each.

    A run that is ended early thus leaves whole comparisons.
    """
    for seed in seeds:
        for recovery in recoveries:
            for setting in settings:
                for network in networks:
                    for source in sources:
                        cell = Cell(network, setting, source, recovery, seed)
                        if _is_possible(cell):
                            yield cell


def _is_possible(cell: Cell) -> bool:
    """Images are made on the way only where training is; plain pruning knows shares alone."""
    if cell.recovery == PLAIN and not re.fullmatch(r"(unstructured|channels)-\d+%", cell.setting):
        return False
    return cell.source != GENERATED or cell.recovery == "fine-tuning"


def method_of(setting: str, recovery: str, **fine_tuning: Any) -> Method:
    """How a network is pruned and recovers: at the defaults of the library, or without it.

    Args:
        setting: a pattern, or what goes and its share: one of ``SETTINGS`` or another such.
        recovery: one of ``RECOVERIES``.
        fine_tuning: settings of ``FineTune`` that are not its defaults, where there is any.
    """
    what, share, faster = (*setting.split("-"), "", "")[:3]
    removed = float(share.rstrip("%")) / 100 if share else None
    if recovery == PLAIN:
        assert removed is not None
        return PruneAndTrain(removed, structured=is_structured(setting), epochs=_PLAIN_EPOCHS)
    steps = tuple(
        replace(step, **fine_tuning) if isinstance(step, FineTune) else step
        for step in RECOVERY_STEPS[recovery]
    )
    if removed is None:
        return Prune(pattern=setting, recovery=steps)
    if not is_structured(setting):
        return Prune(removed, recovery=steps)
    latency = 1 / float(faster.rstrip("x")) if faster else None
    structured = PruneBlocks if what == "blocks" else PruneChannels
    return structured(max_macs=1 - removed, max_latency=latency, recovery=steps)


def is_structured(setting: str) -> bool:
    """Whether a smaller dense network is left."""
    return setting.startswith(("channels", "blocks"))
