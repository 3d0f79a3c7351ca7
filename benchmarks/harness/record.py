"""A record that grows cell by cell."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from mixmix.report.record import benchmark_record
from mixmix.runtime.storage import read_json, write_json

__all__ = ["Record"]


class Record:
    """A ``result.json`` that rows are added to; a row takes the place of an earlier one.

    Args:
        path: of the file; rows and commands that it holds already stay.
        question: what the benchmark answers.
        key: names of the values by which rows are told apart.
    """

    def __init__(self, path: Path, question: str, key: tuple[str, ...]) -> None:
        self._path, self._question, self._key = path, question, key
        earlier = read_json(path) if path.exists() else {"rows": [], "commands": []}
        self._rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._join(earlier["rows"])
        self._commands = dict.fromkeys([*earlier["commands"], f"python {shlex.join(sys.argv)}"])

    def __contains__(self, row: dict[str, Any]) -> bool:
        """Whether there is a row with the same key."""
        return self._key_of(row) in self._rows

    def _key_of(self, row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in self._key)

    def _join(self, rows: list[dict[str, Any]]) -> None:
        self._rows |= {self._key_of(row): row for row in rows}

    def add(self, *rows: dict[str, Any]) -> None:
        self._join(list(rows))
        commands = list(self._commands)
        record = benchmark_record(self._question, commands[-1], self._rows.values())
        write_json(self._path, record | {"commands": commands})
