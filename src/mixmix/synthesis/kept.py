"""The shards that a run has finished, in its folder or in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mixmix.data.image_set import ImageSet, label_agreement
from mixmix.data.shards import Shard, shard_name
from mixmix.models.zoo import Zoo
from mixmix.synthesis.folder import RunFolder

__all__ = ["KeptShards"]


class KeptShards:
    """Shards and their entries in the manifest; threads may add to them at a time.

    Args:
        zoo: gives the soft labels of the stored pixels.
        folder: of the run; None keeps the shards in memory.

    Attributes:
        entries: of the shards that this process kept, by their numbers.
    """

    def __init__(self, zoo: Zoo, folder: RunFolder | None) -> None:
        self._zoo, self._folder = zoo, folder
        self._shards: dict[int, Shard] = {}
        self.entries: dict[int, dict[str, Any]] = {}

    def keep(
        self, index: int, images: Tensor, labels: Tensor, losses: Sequence[Mapping[str, float]]
    ) -> None:
        """Keep a finished batch: images (N, C, H, W) in [0, 1], labels (N,), losses by name.

        Raises:
            InputError: if the folder cannot be written.
        """
        pixels = (images * 255).round().to(torch.uint8).cpu()
        soft_labels = self._zoo.soft_labels(pixels.float() / 255)
        shard = Shard(pixels, labels, soft_labels)
        entry: dict[str, Any] = {
            "num_images": len(labels),
            "label_agreement": label_agreement(soft_labels, labels),
            "losses": list(losses),
        }
        if self._folder is None:
            self._shards[index], self.entries[index] = shard, entry
        else:
            self.entries[index] = self._folder.save(index, shard, entry)

    def in_memory(self, manifest: Mapping[str, Any]) -> ImageSet:
        """The data set of a run without a folder."""
        order = sorted(self._shards)
        entries = [{"file": shard_name(index)} | self.entries[index] for index in order]
        return ImageSet.from_shards(
            [self._shards[index] for index in order], {**manifest, "shards": entries}
        )
