"""The bundled excerpt of CIFAR-10, whole and damaged."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixmix.demo.cifar10 import _read_pack, load_evaluation_pack
from mixmix.errors import DataError

PACK = Path(str(files("mixmix.demo"))) / "assets" / "evaluation" / "cifar10_test_1000.png"


class TestEvaluationPack:
    def test_images_and_labels(self) -> None:
        pack = load_evaluation_pack()
        assert len(pack) == 1000
        image, label = pack[0]
        assert image.shape == (3, 32, 32)
        assert image.dtype == torch.float32
        assert label.dtype == torch.int64
        images, labels = pack.tensors
        assert (float(images.min()), float(images.max())) == (0.0, 1.0)
        assert Counter(labels.tolist()) == dict.fromkeys(range(10), 100)

    def test_known_labels(self) -> None:
        # The first ten labels of the test split, as in the authors' test_batch: cat, ship, ship,
        # airplane, frog, frog, automobile, frog, cat, automobile.
        assert load_evaluation_pack().tensors[1][:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]

    def test_indices_are_in_test_order(self) -> None:
        description = json.loads(PACK.with_suffix(".json").read_text())
        indices = description["indices"]
        assert indices == sorted(set(indices))
        assert len(indices) == 1000
        assert indices[:10] == list(range(10))
        assert description["classes"][:4] == ["airplane", "automobile", "bird", "cat"]

    def test_small_enough_to_bundle(self) -> None:
        assert PACK.stat().st_size < 3_000_000

    def test_changed_pixel(self, tmp_path: Path) -> None:
        copy = tmp_path / PACK.name
        shutil.copy(PACK.with_suffix(".json"), tmp_path)
        with Image.open(PACK) as image:
            rows = np.array(image)
        rows[500, 500, 1] ^= 1
        Image.fromarray(rows).save(copy, compress_level=1)
        with pytest.raises(DataError, match="install mixmix again"):
            _read_pack(copy)

    def test_missing_file(self, tmp_path: Path) -> None:
        shutil.copy(PACK.with_suffix(".json"), tmp_path)
        with pytest.raises(DataError, match=r"cifar10_test_1000\.png"):
            _read_pack(tmp_path / PACK.name)
