"""Labeled images that the command line reads."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_networks import tiny_spec

from mixmix.cli.inputs import labeled_images
from mixmix.errors import InputError


def test_batches_of_cifar10_are_read_by_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    with pytest.raises(InputError, match="cannot read CIFAR-10 in .* unpack its archive again"):
        labeled_images(tmp_path, lambda: tiny_spec("plain"))

    def written(name: str, content: Any) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    batch = written("test_batch", {"data": pixels, "labels": [3, 1, 0, 2]})
    meta = {**datasets.CIFAR10.meta, "md5": written("batches.meta", {"label_names": ["a"]})}
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", batch]])
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [])
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    images, labels = labeled_images(tmp_path, lambda: tiny_spec("plain"))
    assert np.array_equal(images.numpy(), pixels.reshape(4, 3, 32, 32))
    assert labels.tolist() == [3, 1, 0, 2]
