"""Several processes started by torchrun: the same bits as one, also after one of them died."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchrun_programs
from tiny_networks import tiny_spec
from torchrun_programs import (
    SETTINGS,
    THREADS,
    distilled_weights,
    tiny_zoo,
    torchrun,
    trained_weights,
)

from mixmix import ImageSet, Zoo, recipe, synthesize
from mixmix.runtime.machine import usable_cpus

PROGRAMS = torchrun_programs.__file__


def contents(folder: Path) -> dict[str, bytes]:
    """What is in a folder, without the half-written files of a process that was stopped."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return {path.name: path.read_bytes() for path in paths}


def write_networks(folder: Path) -> list[str]:
    """Specs of two networks, and the module that they name."""
    names = ["plain", "depthwise"]
    lines = ["from tiny_networks import tiny_network", ""]
    for name in names:
        lines += [f"def {name}():", f"    return tiny_network({name!r})", ""]
        spec = tiny_spec(name, source=f"python:networks_of_ranks:{name}").to_dict()
        keys = ("name", "source", "input_shape", "mean", "std", "num_classes", "label_set")
        (folder / f"{name}.json").write_text(json.dumps({key: spec[key] for key in keys}))
    (folder / "networks_of_ranks.py").write_text("\n".join(lines))
    return [f"{name}.json" for name in names]


def test_command_line_makes_the_bits_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = write_networks(tmp_path)
    zoo_options = [part for name in networks for part in ("--zoo", name)]
    numbers = {"--num-images": 22, "--batch-size": 4, "--iterations": 3, "--seed": 5}
    options = [str(part) for option in numbers.items() for part in option]
    done = torchrun(
        *("-m", "mixmix", "synthesize", "--out", "images", "--json"),
        *zoo_options,
        *options,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    # The main process alone prints.
    assert json.loads(done.stdout)["num_images"] == 22
    assert (tmp_path / "images" / "contact-sheet.png").exists()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = recipe("mixmix", num_images=22, batch_size=4, iterations=3)
    zoo = Zoo.load(networks)
    synthesize(zoo, settings, seed=5, out="alone", threads=usable_cpus())
    together = contents(tmp_path / "images")
    del together["contact-sheet.png"], together["run.toml"], together["index.html"]
    assert together == contents(tmp_path / "alone")


def test_lost_process_leaves_its_shards_to_the_next_run(tmp_path: Path) -> None:
    done = torchrun(PROGRAMS, "lose", tmp_path / "lost", cwd=tmp_path)
    assert done.returncode != 0
    left = contents(tmp_path / "lost")
    assert "shard-00001.json" in left and "shard-00003.json" not in left
    finished = len(list((tmp_path / "lost").glob("shard-*.json")))
    assert len(ImageSet.load(tmp_path / "lost")) == 4 * finished
    written = (tmp_path / "lost" / "shard-00001.safetensors").stat().st_mtime_ns
    for out in ("lost", "whole"):
        synthesize(tiny_zoo(), SETTINGS, seed=1, out=tmp_path / out, threads=THREADS)
    assert contents(tmp_path / "lost") == contents(tmp_path / "whole")
    assert (tmp_path / "lost" / "shard-00001.safetensors").stat().st_mtime_ns == written


def test_training_and_messages(tmp_path: Path) -> None:
    done = torchrun(PROGRAMS, "together", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for what, expected in (("weights", trained_weights()), ("distilled", distilled_weights())):
        first, second = (torch.load(tmp_path / f"{what}-{rank}.pt") for rank in range(2))
        for name, weight in expected.items():
            assert torch.equal(first[name], second[name])
            torch.testing.assert_close(first[name], weight, rtol=1e-4, atol=1e-6)
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2)]
    for one in seen:
        assert one["gathered"] == [10, 11]
        assert one["from_main"] == 5
        assert one["in_memory"][0] == "InputError" and "pass out" in one["in_memory"][1]
    assert seen[0]["error_of_main"] == ["InputError", "no such folder"]
    assert seen[1]["error_of_main"] == ["RankError", "the main process stopped: no such folder"]
