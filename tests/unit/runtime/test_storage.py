from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from mixmix.errors import DataError, InputError
from mixmix.runtime.storage import (
    read_json,
    read_tensors,
    read_text,
    sha256_of_file,
    sha256_of_tensors,
    write_atomic,
    write_json,
    write_tensors,
)


def fail(kind: OSError | BaseException):
    def raise_it(*args: object) -> None:
        raise kind

    return raise_it


def test_write_creates_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["b.bin"]


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    write_atomic(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_failed_write_keeps_the_old_file_and_leaves_nothing_behind(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr(os, step, fail(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(InputError, match="Input/output error"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(InputError, match=r"\(1,234 bytes\): the disk is full.*run the same"):
        write_atomic(tmp_path / "file", bytes(1234))
    assert os.listdir(tmp_path) == []


def test_interrupt_while_writing_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fail(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == []


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot write"):
        write_atomic(tmp_path / "file" / "inside", b"")


def test_json_round_trip_keeps_order_and_floats(tmp_path: Path) -> None:
    content = {"z": 0.1 + 0.2, "a": [1, None, "ü"]}
    write_json(tmp_path / "x.json", content)
    read = read_json(tmp_path / "x.json")
    assert read == content
    assert list(read) == ["z", "a"]


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "\x00"])
def test_damaged_json_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json as JSON"):
        read_json(tmp_path / "x.json")


def test_json_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match="contains a JSON list, expected an object"):
        read_json(tmp_path / "x.json")


def test_absent_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        read_json(tmp_path / "absent.json")


def test_tensors_round_trip(tmp_path: Path) -> None:
    tensors = {
        "transposed": torch.arange(6.0).view(2, 3).T,
        "bytes": torch.arange(5, dtype=torch.uint8),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.zeros(4, 0),
        "slice": torch.arange(10)[3:7],
    }
    digest = write_tensors(tmp_path / "x.safetensors", tensors, {"key": "value"})
    read, metadata = read_tensors(tmp_path / "x.safetensors")
    assert metadata == {"key": "value"}
    assert digest == sha256_of_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_truncated_safetensors_is_named(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"x\.safetensors as safetensors"):
        read_tensors(path)


def test_absent_safetensors_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(DataError, match="as safetensors"):
            read_tensors(path)


def test_sha256_of_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of_file(tmp_path / "abc") == expected


def test_identity_of_tensors_depends_on_everything_but_order_and_layout() -> None:
    base = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(1)}
    same = {"b": base["b"].clone(), "a": base["a"].T.contiguous().T}
    others = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].view(3, 2), "b": base["b"]},
        {"a": base["a"].double(), "b": base["b"]},
        {"a": base["a"] + 1, "b": base["b"]},
        {"a": base["a"].bfloat16(), "b": base["b"]},
        {"a": base["a"]},
    ]
    digests = [sha256_of_tensors(tensors) for tensors in (base, *others)]
    assert sha256_of_tensors(same) == digests[0]
    assert len(set(digests)) == len(digests)


def test_text_of_files_alone(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfx = 1\r\n")
    assert read_text(tmp_path / "a.toml") == "x = 1\r\n"
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(OSError, match="it is a .*, expected a file"):
            read_text(path)
