"""CIFAR-10 in its three forms, whole and damaged, as benchmarks read it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mixmix.errors import DataError, InputError

pytestmark = pytest.mark.usefixtures("importable_benchmarks")
TRAIN_FILES = [f"data_batch_{i}" for i in range(1, 6)]


def load_cifar10(path: Path, split: str = "test") -> tuple[torch.Tensor, torch.Tensor]:
    from harness.cifar10 import load_cifar10

    found: tuple[torch.Tensor, torch.Tensor] = load_cifar10(path, split=split)
    return found


def pixels(count: int, seed: int = 0) -> np.ndarray:
    """(N, 3, 32, 32) uint8."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def write_python_batch(path: Path, images: np.ndarray, labels: Any, protocol: int = 2) -> None:
    content = {
        b"batch_label": b"testing batch 1 of 1",
        b"labels": labels,
        b"data": images.reshape(len(images), -1),
        b"filenames": [b"x.png"] * len(images),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def write_png_rows(path: Path, images: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images.transpose(0, 2, 3, 1).reshape(len(images), 1024, 3)).save(path)


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.transpose(1, 2, 0)).save(path)


class TestPythonBatches:
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    @pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-py"])
    def test_test_split(self, tmp_path: Path, protocol: int, subfolder: str) -> None:
        write_python_batch(tmp_path / subfolder / "test_batch", pixels(4), [3, 8, 0, 9], protocol)
        images, labels = load_cifar10(tmp_path, split="test")
        assert images.dtype == torch.uint8
        assert np.array_equal(images.numpy(), pixels(4))
        assert labels.tolist() == [3, 8, 0, 9]
        assert labels.dtype == torch.int64

    def test_train_split_joins_five_batches_in_order(self, tmp_path: Path) -> None:
        write_python_batch(tmp_path / "test_batch", pixels(1), [0])
        for number, name in enumerate(TRAIN_FILES):
            write_python_batch(tmp_path / name, pixels(2, seed=number), [number, 9])
        images, labels = load_cifar10(tmp_path, split="train")
        assert labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
        assert np.array_equal(images[6:8].numpy(), pixels(2, seed=3))

    def test_written_by_python_2(self, tmp_path: Path) -> None:
        # Protocol 0 and str keys, as cPickle of Python 2 writes them: the form of the authors.
        raw = pixels(1).tobytes()
        content = (
            b"(dp0\nS'labels'\np1\n(lp2\nI7\nasS'data'\np3\n"
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
            b"(I1\n(I1\nI3072\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR"
            b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\n"
            b"T" + len(raw).to_bytes(4, "little") + raw + b"tbs."
        )
        (tmp_path / "test_batch").write_bytes(content)
        images, labels = load_cifar10(tmp_path)
        assert np.array_equal(images.numpy(), pixels(1))
        assert labels.tolist() == [7]

    @pytest.mark.parametrize("protocol", [2, 5])
    def test_column_order(self, tmp_path: Path, protocol: int) -> None:
        flat = np.asfortranarray(pixels(3).reshape(3, -1))
        content = {"data": flat, "labels": [1, 2, 3]}
        (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
        assert np.array_equal(load_cifar10(tmp_path)[0].numpy(), pixels(3))

    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_runs_nothing_from_a_pickle(self, tmp_path: Path, protocol: int) -> None:
        target = tmp_path / "harmed"

        class Harmful:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(target),)

        content = {b"data": pixels(1).reshape(1, -1), b"labels": [0], b"extra": Harmful()}
        (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(DataError, match="mkdir, which CIFAR-10 does not need"):
            load_cifar10(tmp_path)
        assert not target.exists()

    @pytest.mark.parametrize("name", ["eval", "getattr", "__import__"])
    def test_refuses_builtins(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "test_batch").write_bytes(f"cbuiltins\n{name}\n(S'1'\ntR.".encode())
        with pytest.raises(DataError, match=f"builtins.{name}"):
            load_cifar10(tmp_path)

    def test_truncated(self, tmp_path: Path) -> None:
        write_python_batch(tmp_path / "test_batch", pixels(2), [0, 1])
        content = (tmp_path / "test_batch").read_bytes()
        for size in (0, 1, len(content) // 2, len(content) - 1):
            (tmp_path / "test_batch").write_bytes(content[:size])
            with pytest.raises(DataError, match="test_batch"):
                load_cifar10(tmp_path)

    def test_missing_batch(self, tmp_path: Path) -> None:
        write_python_batch(tmp_path / "test_batch", pixels(1), [0])
        for name in TRAIN_FILES[:-1]:
            write_python_batch(tmp_path / name, pixels(1), [0])
        with pytest.raises(DataError, match="data_batch_5"):
            load_cifar10(tmp_path, split="train")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "contains a list, expected a dict"),
            ({b"labels": [0]}, "no array 'data'"),
            ({b"data": [[0] * 3072], b"labels": [0]}, "no array 'data'"),
            ({b"data": np.zeros((1, 3072), np.float32), b"labels": [0]}, "uint8"),
            ({b"data": np.array([None]), b"labels": [0]}, "uint8"),
            ({b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]}, "expected .N, 3072."),
            ({b"data": np.zeros(3072, np.uint8), b"labels": [0]}, "expected .N, 3072."),
            ({b"data": np.zeros((1, 3072), np.uint8)}, "labels must be a list"),
            ({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]}, "labels must be a list"),
            ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, r"0\.\.9, got 10"),
            ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10**30]}, r"0\.\.9"),
            ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1, 2]}, "1 images but 2 labels"),
        ],
    )
    def test_other_content(self, tmp_path: Path, content: Any, message: str) -> None:
        (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol=4))
        with pytest.raises(DataError, match=message):
            load_cifar10(tmp_path)

    def test_size_that_is_not_that_of_the_shape(self, tmp_path: Path) -> None:
        write_python_batch(tmp_path / "test_batch", pixels(2), [0, 1], protocol=5)
        content = (tmp_path / "test_batch").read_bytes()
        # K\x02 is the number of images in the shape, M\x00\x0c the 3,072 values of each.
        assert content.count(b"K\x02M\x00\x0c") == 1
        (tmp_path / "test_batch").write_bytes(content.replace(b"K\x02M\x00\x0c", b"K\x03M\x00\x0c"))
        with pytest.raises(DataError, match="test_batch"):
            load_cifar10(tmp_path)


class TestPngRows:
    @pytest.mark.parametrize("subfolder", ["", "package"])
    def test_test_split(self, tmp_path: Path, subfolder: str) -> None:
        write_png_rows(tmp_path / subfolder / "test_batch.png", pixels(3))
        (tmp_path / subfolder / "test_lables.json").write_text("[5, 6, 7]")
        images, labels = load_cifar10(tmp_path)
        assert np.array_equal(images.numpy(), pixels(3))
        assert labels.tolist() == [5, 6, 7]

    def test_train_split(self, tmp_path: Path) -> None:
        write_png_rows(tmp_path / "test_batch.png", pixels(1))
        for number, name in enumerate(TRAIN_FILES):
            write_png_rows(tmp_path / f"{name}.png", pixels(1, seed=number))
        (tmp_path / "train_lables.json").write_text("[0, 1, 2, 3, 4]")
        images, labels = load_cifar10(tmp_path, split="train")
        assert np.array_equal(images[4:].numpy(), pixels(1, seed=4))
        assert labels.tolist() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ("[1, 2", "cannot read labels"),
            ("{}", "labels must be a list"),
            ("[1.5, 2]", "labels must be a list"),
            ("[1]", "2 images but 1 labels"),
            ("[-1, 2]", r"got -1\.\.2"),
        ],
    )
    def test_damaged_labels(self, tmp_path: Path, labels: str, message: str) -> None:
        write_png_rows(tmp_path / "test_batch.png", pixels(2))
        (tmp_path / "test_lables.json").write_text(labels)
        with pytest.raises(DataError, match=message):
            load_cifar10(tmp_path)

    def test_no_labels(self, tmp_path: Path) -> None:
        write_png_rows(tmp_path / "test_batch.png", pixels(2))
        with pytest.raises(DataError, match=r"test_lables\.json"):
            load_cifar10(tmp_path)

    def test_damaged_picture(self, tmp_path: Path) -> None:
        write_png_rows(tmp_path / "test_batch.png", pixels(2))
        (tmp_path / "test_lables.json").write_text("[1, 2]")
        content = (tmp_path / "test_batch.png").read_bytes()
        for damaged in (b"", content[:1000], b"no picture"):
            (tmp_path / "test_batch.png").write_bytes(damaged)
            with pytest.raises(DataError, match=r"test_batch\.png"):
                load_cifar10(tmp_path)

    def test_other_width(self, tmp_path: Path) -> None:
        Image.new("RGB", (1000, 2)).save(tmp_path / "test_batch.png")
        with pytest.raises(DataError, match="rows have 1000 pixels, expected 1,024"):
            load_cifar10(tmp_path)


class TestImageFolder:
    def test_names_indices_and_both(self, tmp_path: Path) -> None:
        for number, name in enumerate(["5_dog", "airplane", "8", "03_cat"]):
            write_image(tmp_path / "test" / name / "b.png", pixels(1, seed=number)[0])
            write_image(tmp_path / "test" / name / "a.png", pixels(1, seed=10 + number)[0])
        images, labels = load_cifar10(tmp_path)
        assert labels.tolist() == [0, 0, 3, 3, 5, 5, 8, 8]
        expected = [pixels(1, seed=seed)[0] for seed in (11, 1, 13, 3, 10, 0, 12, 2)]
        assert np.array_equal(images.numpy(), np.stack(expected))

    def test_splits_are_apart(self, tmp_path: Path) -> None:
        write_image(tmp_path / "test" / "cat" / "a.png", pixels(1)[0])
        write_image(tmp_path / "train" / "dog" / "a.png", pixels(1)[0])
        assert load_cifar10(tmp_path, split="test")[1].tolist() == [3]
        assert load_cifar10(tmp_path, split="train")[1].tolist() == [5]

    def test_other_files_are_passed_over(self, tmp_path: Path) -> None:
        write_image(tmp_path / "test" / "cat" / "a.png", pixels(1)[0])
        (tmp_path / "test" / "cat" / "Thumbs.db").write_bytes(b"x")
        (tmp_path / "test" / "readme.txt").write_text("x")
        (tmp_path / "test" / ".cache").mkdir()
        assert len(load_cifar10(tmp_path)[0]) == 1

    @pytest.mark.parametrize("name", ["lion", "10", "3_dog", "3_", "-1", "cat_3", "²", "Cat"])
    def test_unknown_class(self, tmp_path: Path, name: str) -> None:
        write_image(tmp_path / "test" / name / "a.png", pixels(1)[0])
        with pytest.raises(DataError, match="named after no CIFAR-10 class"):
            load_cifar10(tmp_path)

    def test_a_class_twice(self, tmp_path: Path) -> None:
        write_image(tmp_path / "test" / "3" / "a.png", pixels(1)[0])
        write_image(tmp_path / "test" / "cat" / "a.png", pixels(1)[0])
        with pytest.raises(DataError, match="'3' and 'cat' are both class 3"):
            load_cifar10(tmp_path)

    def test_other_size(self, tmp_path: Path) -> None:
        (tmp_path / "test" / "cat").mkdir(parents=True)
        Image.new("RGB", (28, 32)).save(tmp_path / "test" / "cat" / "a.png")
        with pytest.raises(DataError, match="28 x 32 pixels, expected 32 x 32"):
            load_cifar10(tmp_path)

    def test_damaged_image(self, tmp_path: Path) -> None:
        write_image(tmp_path / "test" / "cat" / "a.png", pixels(1)[0])
        path = tmp_path / "test" / "cat" / "a.png"
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(DataError, match=r"cannot read .*a\.png"):
            load_cifar10(tmp_path)

    def test_no_images(self, tmp_path: Path) -> None:
        (tmp_path / "test" / "cat").mkdir(parents=True)
        with pytest.raises(DataError, match="contains no images"):
            load_cifar10(tmp_path)


class TestOtherFolders:
    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no CIFAR-10 folder"):
            load_cifar10(tmp_path / "absent")

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="expected python batches"):
            load_cifar10(tmp_path)

    def test_unknown_split(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="'validation'"):
            load_cifar10(tmp_path, split="validation")
