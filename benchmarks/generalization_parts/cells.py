"""Cells: images from zoo A for the compression of network B."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.sources import ZOOS

__all__ = ["MEMBERS", "TARGETS", "Cell", "all_cells", "zoo_of"]

MEMBERS = ZOOS["zoo"]
# Networks without BatchNorm cannot be inverted by themselves; they are served by the others.
TARGETS = (*MEMBERS, "bundled:vit", "bundled:convnext")
_ALL, _WITHOUT, _UNBALANCED = "all", "all but ", "all, unbalanced"


def zoo_of(row: str) -> tuple[str, ...]:
    """The networks that a row's images are made from: ``all``, ``all but A``, ``A`` or ``A + B``.

    ``all, unbalanced`` does not weigh the members' BatchNorm terms by their depth.
    """
    if row in (_ALL, _UNBALANCED):
        return MEMBERS
    if row.startswith(_WITHOUT):
        return tuple(name for name in MEMBERS if name != row.removeprefix(_WITHOUT))
    return tuple(row.split(" + "))


@dataclass(frozen=True)
class Cell:
    """One number of the matrix.

    Attributes:
        row: the zoo of the images; see ``zoo_of``.
        target: the network that is quantized on them.
        setting: its bits.
        seed: of synthesis and of quantization.
    """

    row: str
    target: str
    setting: str
    seed: int

    @property
    def balanced(self) -> bool:
        return self.row != _UNBALANCED

    @property
    def name(self) -> str:
        row = self.row.replace(":", "-").replace(" ", "").replace(",", "-")
        return f"{self.target.replace(':', '-')}-{self.setting}-{row}-seed{self.seed}"


def all_cells(
    *, targets: Sequence[str], setting: str, seeds: Sequence[int], pairs: bool
) -> Iterator[Cell]:
    """The cells that decide first: each network with and without itself in the zoo, all seeds.

    Then, with the first seed, images of each single network, the ablation of the balance, all but
    one for every other network, and pairs.
    """
    for seed in seeds:
        for target in targets:
            yield Cell(_ALL, target, setting, seed)
            if target in MEMBERS:
                yield Cell(_WITHOUT + target, target, setting, seed)
    rows = [*MEMBERS, _UNBALANCED, *(_WITHOUT + name for name in MEMBERS)]
    if pairs:
        rows += [" + ".join(pair) for pair in itertools.combinations(MEMBERS, 2)]
    for row in rows:
        for target in targets:
            if row != _WITHOUT + target:
                yield Cell(row, target, setting, seeds[0])
