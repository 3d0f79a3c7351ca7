"""Labeled images that the command line reads."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_networks import tiny_spec

from mixmix.cli.inputs import labeled_images, read_classes, with_spec
from mixmix.errors import InputError
from mixmix.models import load_spec


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
    images, labels = labeled_images(tmp_path, lambda: load_spec("bundled:resnet"))
    assert np.array_equal(images.numpy(), pixels.reshape(4, 3, 32, 32))
    assert labels.tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 37, "label_set": "pets"}, r"has 37 classes \(pets\); give labeled images"),
        (
            {"num_classes": 10, "label_set": "", "classes": ()},
            "or if its classes .*--label-set cifar10",
        ),
        ({"num_classes": 10, "label_set": "mnist", "classes": ()}, r"has 10 classes \(mnist\)"),
        ({"num_classes": 10, "classes": tuple("0123456789"), "label_set": ""}, r"\(0, 1, 2, 3 and"),
        ({"num_classes": 100, "label_set": "cifar100", "classes": ()}, "has 100 classes"),
    ],
)
def test_cifar10_is_for_networks_of_cifar10(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    spec = replace(tiny_spec("plain"), **{"classes": (), **fields})
    with pytest.raises(InputError, match=message):
        labeled_images(None, lambda: spec)


def test_networks_of_cifar10_have_its_test_images() -> None:
    known = load_spec("bundled:resnet")
    for spec in (replace(known, classes=()), replace(known, label_set="")):
        assert len(labeled_images(None, lambda: spec)) == 1000  # noqa: B023


def test_data_that_is_no_folder_of_classes(tmp_path: Path) -> None:
    spec = load_spec("bundled:resnet")

    def fails(path: Path, message: str) -> None:
        with pytest.raises(InputError, match=message):
            labeled_images(path, lambda: spec)

    fails(tmp_path / "absent", "is not a folder; pass one with a subfolder per class, or a .csv")
    fails(tmp_path / "absent.csv", "cannot read .*absent.csv")
    for part in ("train", "Val"):
        (tmp_path / "parts" / part / "cat").mkdir(parents=True)
    fails(tmp_path / "parts", "has the parts Val, train; pass .*Val")
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "flat" / "a.png")
    fails(tmp_path / "flat", "contains no images with labels; expected .*CLASS")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "cat\nsea lion\n\n"),
        ("classes.json", '["cat", "sea lion"]'),
        ("index.json", '{"1": ["n2", "sea lion"], "0": ["n1", "cat"]}'),
    ],
)
def test_names_of_classes_are_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    given = {"class_file": str(tmp_path / name), "spec": {"mean": [0.5], "std": [0.1, 0.2, 0.3]}}
    assert with_spec(given) == {
        "spec": {"classes": ["cat", "sea lion"], "mean": 0.5, "std": [0.1, 0.2, 0.3]}
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"1": "a", "2": "b"}',
        '{"0": "a", "2": "b"}',
        '{"a": 0, "b": 1}',
        '"ab"',
        "null",
        "[1, 2]",
        "[[]]",
    ],
)
def test_class_files_of_other_forms_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=r"c\.json must hold"):
        read_classes(tmp_path / "c.json")


def test_class_files_by_index(tmp_path: Path) -> None:
    names = [f"name {index}" for index in range(12)]
    (tmp_path / "c.json").write_text(json.dumps({str(i): ["n0", n] for i, n in enumerate(names)}))
    assert read_classes(tmp_path / "c.json") == names
