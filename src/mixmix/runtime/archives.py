"""Zip archives as PyTorch writes them: entries are stored, in one folder."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO

from mixmix.errors import DataError

__all__ = ["StoredArchive"]

_BLOCK = 2**20


class StoredArchive:
    """The entries of a zip archive in one folder, without compression.

    Decompression could turn a small file into any amount of memory, and entries that overlap or
    that have one name could be read differently by two readers; both are refused.

    Args:
        source: a path, or an open file.

    Attributes:
        names: of the entries, without their folder.

    Raises:
        DataError: if it is no such archive, or an entry is damaged.
    """

    def __init__(self, source: Path | IO[bytes]) -> None:
        try:
            self._archive = zipfile.ZipFile(source)
            entries = [each for each in self._archive.infolist() if not each.is_dir()]
            self._check(entries)
        except DataError:
            raise
        except Exception as error:  # of damaged archives: zipfile.BadZipFile, struct.error ...
            raise DataError("it is no zip archive, or it is damaged") from error
        self._entries = {each.filename.partition("/")[2]: each for each in entries}
        self.names = tuple(self._entries)

    def _check(self, entries: list[zipfile.ZipInfo]) -> None:
        assert self._archive.fp is not None
        names = [each.filename for each in entries]
        if len(set(names)) < len(names):
            raise DataError("it contains several entries of one name")
        folders = {name.partition("/")[0] for name in names}
        if len(folders) != 1 or any("/" not in name for name in names):
            raise DataError("its entries are not in one folder")
        if any(each.compress_type != zipfile.ZIP_STORED or each.flag_bits & 1 for each in entries):
            raise DataError("its entries are compressed or encrypted, which PyTorch does not do")
        if sum(each.file_size for each in entries) > self._archive.fp.seek(0, 2):
            raise DataError("its entries claim to be larger than the file")

    def read(self, name: str) -> bytes:
        """The content of an entry.

        Raises:
            DataError: if there is no such entry, or it is damaged.
        """
        if name not in self._entries:
            raise DataError(f"it has no entry {name}")
        try:
            return self._archive.read(self._entries[name])
        except Exception as error:
            raise DataError(f"its entry {name} is damaged") from error

    def check_sums(self) -> None:
        """Compare every entry with its checksum, if it has one.

        Raises:
            DataError: if an entry is damaged.
        """
        for name, entry in self._entries.items():
            found, expected = 0, entry.CRC
            try:
                with self._archive.open(entry) as file:
                    file._expected_crc = None  # type: ignore[attr-defined]  # may be left out
                    while block := file.read(_BLOCK):
                        found = zlib.crc32(block, found)
            except Exception as error:
                raise DataError(f"its entry {name} is damaged") from error
            if expected not in (0, found):
                raise DataError(f"its entry {name} is damaged")
