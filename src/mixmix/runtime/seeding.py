"""Seeds and generators for all random draws of a run, derived from one seed."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["child_seed", "generator"]


def child_seed(seed: int, *path: str | int) -> int:
    """A seed in [0, 2**63) that depends only on ``seed`` and ``path``.

    It does not depend on earlier draws: shard 7 is the same with and without shards 0 to 6.
    """
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator seeded with ``child_seed``; draw on the CPU and move to the device."""
    return torch.Generator().manual_seed(child_seed(seed, *path))
