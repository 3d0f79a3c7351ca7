"""Cells of (network, setting, images, seed), the hardest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["NETWORKS", "OTHERS", "SETTINGS", "SOURCES", "Cell", "all_cells"]

# Networks whose whole table is filled, and those that are measured once, at the hardest setting.
NETWORKS = ("resnet20", "bundled:mobilenetv2", "resnet44")
OTHERS = ("bundled:resnet", "bundled:vgg", "bundled:vovnet")
SETTINGS = ("W2A4", "W3A3", "W4A4")
# Real images and noise bound what images can do; then the peers, and what mixmix is made of.
SOURCES = (
    "mixmix",
    "real",
    "deepinversion",
    "zeroq",
    "mct",
    "feature-mixing",
    "data-mixing",
    "noise",
)


@dataclass(frozen=True)
class Cell:
    """One number of the table.

    Attributes:
        task: ``quantize``, the first and the last layer with 8 bits; ``mixed``: of the same size,
            with as many bits for each layer as it needs; ``qat``: all layers alike, and then
            trained.
        network: what is quantized; see ``harness.networks.load_network``.
        setting: bits, as ``Quantize`` takes them.
        source: of the images.
        seed: of synthesis (where the source has several) and of quantization.
    """

    task: str
    network: str
    setting: str
    source: str
    seed: int

    @property
    def name(self) -> str:
        network = self.network.replace(":", "-")
        task = "" if self.task == "quantize" else f"-{self.task}"
        return f"{network}-{self.setting}{task}-{self.source}-seed{self.seed}"


def all_cells(
    *,
    task: str = "quantize",
    networks: Sequence[str],
    settings: Sequence[str],
    sources: Sequence[str],
    seeds: Sequence[int],
) -> Iterator[Cell]:
    """Every cell: seed by seed, settings from hard to easy, all networks and sources in each.

    A run that is ended early thus leaves whole comparisons. Networks in ``OTHERS`` have one seed
    and the hardest setting.
    """
    for setting in settings:
        for seed in seeds:
            for network in networks:
                if network in OTHERS and (setting, seed) != (settings[0], seeds[0]):
                    continue
                for source in sources:
                    yield Cell(task, network, setting, source, seed)
