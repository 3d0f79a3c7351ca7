"""Labeled images that a table names: a text file of paths and labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from mixmix.errors import DataError, first_line
from mixmix.evaluate.labeled_files import LabeledFiles, labels_of_names
from mixmix.models.classes import find_classes, list_some
from mixmix.models.spec import ModelSpec
from mixmix.runtime.storage import read_text

__all__ = ["TABLES", "image_table"]

TABLES = (".csv", ".tsv", ".txt")
# Titles of columns, in order of preference.
_PATHS = "path file_path filepath image_path file filename file_name image_name image img name id"
_LABELS = "label class label_name class_name category target label_id class_id labels classes y"
# Of files that are named without one.
_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".JPEG", ".JPG", ".webp", ".bmp")
# Of an index in 64 bits.
_MOST_DIGITS = 18
_SEPARATORS = ("|", ";", ",", " ")


def image_table(path: str | Path, spec: ModelSpec) -> LabeledFiles:
    """Images that the rows of a table name: a path, and a label.

    Labels are names of classes or their indices. With ``multi_label``, a label is a list of them
    separated by ``|``, ``;``, commas or spaces, or there is a column of 0 and 1 for each class.
    Columns have titles such as ``path`` and ``label``, or are the first two; other columns are
    ignored.

    Args:
        path: a .csv, .tsv or .txt file; paths in it are relative to its folder.
        spec: of the network to evaluate.

    Raises:
        DataError: if it cannot be read, an image does not exist, or a label is unknown.
    """
    path = Path(path)
    rows = _rows(path)
    if not rows:
        raise DataError(f"{path} has no rows; expected a path and a label in each")
    titles = [title.strip().casefold().replace(" ", "_") for title in rows[0]]
    place = _column(titles, _PATHS)
    of_classes = find_classes(spec.classes, [title.strip() for title in rows[0]])
    has_flags = spec.multi_label and bool(spec.classes) and None not in of_classes
    label = _column(titles, _LABELS)
    if place is not None and (label is not None or has_flags):
        rows = rows[1:]
    elif _image(path, rows[0][0]) is None and len(rows) > 1 and _image(path, rows[1][0]):
        place, label, rows = 0, 1, rows[1:]  # titles that are not known
    else:
        place, label = 0, 1
    columns = [i for i in of_classes if i is not None] if has_flags else [label or 0]
    short = [row for row in rows if len(row) <= max(place or 0, *columns)]
    if short:
        raise DataError(
            f"{path}: expected a path and a label in each row, got {','.join(short[0])!r}"
        )
    images = _images(path, [row[place or 0] for row in rows])
    if has_flags:
        labels: Sequence[int | list[int]] = [_flags(path, row, columns) for row in rows]
    elif spec.multi_label:
        labels = _label_sets(path, [row[columns[0]] for row in rows], spec)
    else:
        labels = _labels(path, [row[columns[0]].strip() for row in rows], spec)
    return LabeledFiles(list(zip(images, labels, strict=True)), spec)


def _rows(path: Path) -> list[list[str]]:
    try:
        text = read_text(path).removeprefix("\ufeff")
        lines = [line for line in text.splitlines() if line.strip()]
        first = lines[0] if lines else ""
        delimiter = next((each for each in "\t;," if each in first), "")
        if not delimiter:
            return [line.rsplit(maxsplit=1) for line in lines]
        rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        return [row for row in rows if row]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {first_line(error)}") from error


def _column(titles: Sequence[str], names: str) -> int | None:
    return next((titles.index(name) for name in names.split() if name in titles), None)


def _image(table: Path, name: str) -> Path | None:
    """The file that a path in a table names, beside the table or in the current folder."""
    name = name.strip().replace("\\", "/")
    options = (
        (base / name).with_name(Path(name).name + suffix)
        for base in (table.parent, Path())
        for suffix in _SUFFIXES
        if Path(name).name
    )
    return next((each for each in options if os.path.isfile(each)), None)  # of any length


def _images(table: Path, names: Sequence[str]) -> list[Path]:
    found = [_image(table, name) for name in names]
    missing = [name.strip() for name, path in zip(names, found, strict=True) if path is None]
    if missing:
        raise DataError(
            f"{table} names {len(missing):,} of {len(names):,} images that do not exist "
            f"({list_some(missing)}); paths are relative to {table.parent or Path('.')}"
        )
    return [path for path in found if path is not None]


def _labels(table: Path, names: Sequence[str], spec: ModelSpec) -> list[int]:
    known = sorted(set(names))
    if None not in find_classes(known, spec.classes):
        index = labels_of_names(known, spec, str(table), "labels")
        by_name = dict(zip(known, index, strict=True))
        return [by_name[name] for name in names]
    if all(_is_index(name) for name in known):
        labels = [int(name.removesuffix(".0")) for name in names]
        low, high = min(labels), max(labels)
        if low < 0 or high >= spec.num_classes:
            starts_at_one = low == 1 and high == spec.num_classes
            raise DataError(
                f"{table} has the label {low if low < 0 else high}, expected 0 to "
                f"{spec.num_classes - 1} for the {spec.num_classes} classes of {spec.name}"
                + "; its labels start at 1: subtract 1"
                * starts_at_one
            )
        return labels
    found = dict(zip(known, labels_of_names(known, spec, str(table), "labels"), strict=True))
    return [found[name] for name in names]


def _is_index(name: str) -> bool:
    digits = name.removeprefix("-").removesuffix(".0")
    return digits.isdecimal() and len(digits) <= _MOST_DIGITS


def _label_sets(table: Path, cells: Sequence[str], spec: ModelSpec) -> list[list[int]]:
    # Names of classes may contain spaces and commas.
    text = "".join(cells)
    separator = next((each for each in _SEPARATORS if each in text), "|")
    sets = [[each.strip() for each in cell.split(separator) if each.strip()] for cell in cells]
    names = [name for names in sets for name in names]
    index = dict(zip(names, _labels(table, names, spec), strict=True)) if names else {}
    chosen = [{index[name] for name in names} for names in sets]
    return [[int(label in each) for label in range(spec.num_classes)] for each in chosen]


def _flags(table: Path, row: Sequence[str], columns: Sequence[int]) -> list[int]:
    values = [row[column].strip() for column in columns]
    if not set(values) <= {"0", "1", "0.0", "1.0"}:
        raise DataError(f"{table}: columns of classes must hold 0 or 1, got {','.join(row)!r}")
    return [int(float(value)) for value in values]
