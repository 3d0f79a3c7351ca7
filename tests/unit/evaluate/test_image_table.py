"""Tables of paths and labels, as people write them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tiny_networks import tiny_spec

from mixmix.errors import DataError, MixmixWarning
from mixmix.evaluate.image_table import image_table
from mixmix.models.spec import ModelSpec

NAMES = ("cat", "dog", "sea lion")


def spec(classes: tuple[str, ...] = NAMES, **fields: object) -> ModelSpec:
    return replace(tiny_spec("plain"), num_classes=len(classes) or 3, classes=classes, **fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.jpg", "c.png"):
        Image.new("RGB", (6, 4)).save(tmp_path / "photos" / name)
    return tmp_path


def labels(folder: Path, text: str, of: ModelSpec, name: str = "val.csv") -> list[object]:
    (folder / name).write_text(text)
    table = image_table(folder / name, of)
    assert table[0][0].shape == of.input_shape
    return [label for _, label in table.items]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val.csv", "path,label\nphotos/a.png,dog\nphotos/b.jpg,cat\nphotos/c.png,sea lion\n"),
        ("val.csv", "photos/a.png,1\nphotos/b.jpg,0\nphotos/c.png,2\n"),
        (
            "val.csv",
            "\ufefflabel;image\r\nDog;photos\\a.png\r\nCat;photos/b\r\nSea_Lion;photos/c\r\n",
        ),
        ("val.tsv", "what\tyear\tpath\tclass\nx\t1\tphotos/a.png\tdog\ny\t\tphotos/b.jpg\tcat\n"),
        ("val.txt", "photos/a.png 1\nphotos/b.jpg 0\n\nphotos/c.png 2\n"),
        ("val.csv", 'Image, Label\n"photos/a.png", dog\n"photos/b.jpg", cat\n'),
        ("val.csv", "bild,klasse\nphotos/a.png,dog\nphotos/b.jpg,cat\n"),
        ("val.csv", "id,label\nphotos/a,1.0\nphotos/b,0.0\n"),
    ],
)
def test_forms(folder: Path, name: str, text: str) -> None:
    assert labels(folder, text, spec(), name)[:2] == [1, 0]


def test_indices_without_names_of_classes(folder: Path) -> None:
    assert labels(folder, "photos/a.png,2\nphotos/b.jpg,0\n", spec(())) == [2, 0]


def test_names_without_names_of_classes(folder: Path) -> None:
    text = "photos/a.png,z\nphotos/b.jpg,x\nphotos/c.png,y\n"
    with pytest.warns(MixmixWarning, match="in alphabetical order"):
        assert labels(folder, text, spec(())) == [2, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("path,label\nphotos/a.png,3\n", "has the label 3, expected 0 to 2 for the 3 classes"),
        ("photos/a.png,1\nphotos/b.jpg,3\n", "its labels start at 1: subtract 1"),
        ("photos/a.png,-1\n", "has the label -1"),
        ("photos/a.png,wolf\n", "none is called wolf"),
        ("photos/a.png,dog\nphotos/x.png,dog\n", "names 1 of 2 images that do not exist"),
        ("photos/a.png\n", "expected a path and a label in each row"),
    ],
)
def test_wrong_tables(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels(folder, text, spec())


@pytest.mark.parametrize(
    "text",
    [
        "path,cat,dog,sea lion\nphotos/a.png,1,0,1\nphotos/b.jpg,0,0,0\n",
        "path,labels\nphotos/a.png,cat|sea lion\nphotos/b.jpg,\n",
        "path,labels\nphotos/a.png,0 2\nphotos/b.jpg,\n",
    ],
)
def test_several_labels(folder: Path, text: str) -> None:
    assert labels(folder, text, spec(multi_label=True)) == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\nphotos/a.png," + "9" * 400,
        "path,label\nphotos/a.png,-" + "9" * 5000,
        'path,label\nphotos/a.png,"' + "x" * 200_000 + '"',
        "path,label\n" + "x" * 5000 + ",cat",
    ],
)
def test_absurd_cells_are_refused(text: str, folder: Path) -> None:
    with pytest.raises(DataError):
        labels(folder, text, spec())
