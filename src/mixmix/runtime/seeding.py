"""Child seeds and generators: every random draw of a run descends from one seed."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["child_seed", "generator"]


def child_seed(seed: int, *path: str | int) -> int:
    """A seed in [0, 2**63) that depends on ``seed`` and every step of ``path``.

    The same path gives the same seed whatever was drawn before, so that shard 7 is the same
    whether or not shards 0 to 6 were made in this process.
    """
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator seeded by ``child_seed``; draws are moved to the device afterwards."""
    return torch.Generator().manual_seed(child_seed(seed, *path))
