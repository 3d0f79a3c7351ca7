"""A folder belongs to one run: by everything that results depend on, and while it works."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import tiny_network, tiny_spec

from mixmix import ImageSet, SynthesisSettings, Zoo, synthesize
from mixmix.errors import DataError, InputError
from mixmix.runtime.run_folder import claim_folder
from mixmix.runtime.storage import (
    check_writable,
    read_json,
    read_tensors,
    write_atomic,
    write_record,
    write_tensors,
)

SETTINGS = SynthesisSettings(num_images=8, batch_size=4, iterations=2)


class StoppedError(Exception):
    pass


def made(out: Path, *, stop_at: int | None = None, seed: int = 0, **spec: Any) -> ImageSet:
    def progress(what: str, fraction: float) -> None:
        if round(4 * fraction) == stop_at:  # of two iterations for each of two shards
            raise StoppedError

    weights = spec.pop("weights", None)
    pairs = [
        (tiny_network("plain"), replace(tiny_spec("plain"), name=name, **spec))
        for name in ("one", "two")
    ]
    zoo = Zoo.load(pairs, weights=weights)
    return synthesize(zoo, SETTINGS, seed=seed, out=out, threads=1, on_progress=progress)


@pytest.mark.parametrize("stop_at", [3, None])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"mean": (0.25,) * 3}, {}, r"another mean of one \(\[0.25, .*, now \["),
        ({"std": (1.0,) * 3}, {}, "another std of one"),
        ({"label_map": (0, 1, 2, 3)}, {"label_map": (3, 2, 1, 0)}, "another label_map of one"),
        ({"classes": tuple("abcd")}, {"classes": tuple("abdc")}, "other classes of one"),
        ({"weights": [1.0, 1.0]}, {"weights": [1.0, 50.0]}, "another weight of two of members"),
    ],
)
def test_a_corrected_spec_is_another_run(
    stop_at: int | None, first: Any, second: Any, message: str, tmp_path: Path
) -> None:
    with suppress(StoppedError):
        made(tmp_path, stop_at=stop_at, **first)
    with pytest.raises(InputError, match=message):
        made(tmp_path, **second)


def test_two_runs_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    zoo = Zoo.load([(tiny_network("plain"), tiny_spec("plain"))])
    refused = []

    def progress(what: str, fraction: float) -> None:
        if not refused:
            for seed, message in ((1, "another seed"), (0, "is working in")):
                with pytest.raises(InputError, match=message) as caught:
                    synthesize(zoo, SETTINGS, seed=seed, out=tmp_path, threads=1)
                refused.append(caught.value)

    data = synthesize(zoo, SETTINGS, seed=0, out=tmp_path, threads=1, on_progress=progress)
    assert len(refused) == 2
    assert torch.equal(data.images, synthesize(zoo, SETTINGS, seed=0, threads=1).images)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_files_of_others_stay(tmp_path: Path) -> None:
    others = {
        "shard-info.json": '{"file": "x", "sha256": "y"}',
        "shard-99.json": "{}",
        ".notes.abcdefgh.mixmix": "",
    }
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    assert len(made(tmp_path)) == 8
    assert all((tmp_path / name).read_text() == text for name, text in others.items())


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "..", "a/b", "a\\b"])
def test_names_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    made(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = read_json(path)
    manifest["shards"][0]["file"] = name
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="is no shard in its folder"):
        ImageSet.load(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_special_files_are_named_and_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    for read in (read_json, read_tensors):
        with pytest.raises(DataError, match="expected a file"):
            read(path)
    for write in (lambda: write_atomic(path, b""), lambda: check_writable(path)):
        with pytest.raises(
            InputError, match=f"cannot write .* it is a {kind}".replace("fifo", "FIFO")
        ):
            write()
    assert os.listdir(tmp_path) == ["x"]


def test_every_changed_byte_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    record, tensors = tmp_path / "x.json", tmp_path / "x.safetensors"
    write_record(record, {"a": [1, 0.5], "b": "text"})
    write_tensors(tensors, {"a": torch.arange(4.0)}, {"steps": "3"})
    for path, read in ((record, read_json), (tensors, read_tensors)):
        whole, expected = path.read_bytes(), str(read(path))
        seal = re.findall(r"[0-9a-f]{64}", whole.decode("latin1"))[0]
        for index in range(len(whole)):
            path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
            try:
                found = str(read(path))
            except DataError:
                continue
            # Where only the name of the hash changed, the rest is whole.
            assert found == expected or seal in found


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    (tmp_path / ".run.json.lock").write_text("process 1\n")
    claim = claim_folder(path, {"seed": 0})
    with (
        claim_folder(path, {"seed": 0}),
        pytest.raises(InputError, match="process .* is working in"),
    ):
        claim.__enter__()
    other = claim_folder(path, {"seed": 1})
    with pytest.raises(InputError, match=r"contains a run run with another seed \(0, now 1\)"):
        other.__enter__()
    assert os.listdir(tmp_path) == ["run.json"]


def test_abandoned_temporary_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".x.json.abcdefgh.mixmix-tmp").write_text("half")
    (tmp_path / ".y.json.abcdefgh.mixmix-tmp").write_text("half")
    write_atomic(tmp_path / "x.json", b"{}")
    assert sorted(os.listdir(tmp_path)) == [".y.json.abcdefgh.mixmix-tmp", "x.json"]
