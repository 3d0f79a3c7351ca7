"""``mixmix compress``: from a file of any exporter to a smaller one, with nothing else."""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path

import in_process
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mixmix import ImageSet

NETWORKS = """
import torch
from torch import nn

def normalized():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(16, 5),
        )
        net(torch.rand(64, 3, 16, 16))
    return net.eval()

def plain():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(1), nn.Linear(3 * 256, 16), nn.ReLU(), nn.Linear(16, 5))
"""
SAID = "--mean 0.5 --std 0.2,0.25,0.3"
FEW = f"{SAID} -n 32 --iterations 2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "networks_to_compress.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("networks_to_compress", None)
    return tmp_path


def network(name: str) -> nn.Module:
    import networks_to_compress  # type: ignore[import-not-found]

    built: nn.Module = getattr(networks_to_compress, name)()
    return built


def write_onnx(name: str, path: str, *, dynamo: bool) -> None:
    given = torch.zeros(1, 3, 16, 16)
    module = network(name).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter
        torch.onnx.export(module, (given,), path, dynamo=dynamo, verbose=False)


def mixmix(command: str) -> int:
    return in_process.mixmix(*command.split())


@pytest.mark.parametrize("name", ["normalized", "plain"])
@pytest.mark.parametrize("dynamo", [True, False])
def test_a_file_of_another_exporter(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, dynamo: bool
) -> None:
    write_onnx(name, "net.onnx", dynamo=dynamo)
    assert mixmix(f"compress net.onnx -o small.onnx {FEW}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 12 and all(len(line) <= 80 for line in lines)
    for part in ("W8A8", "made from net.onnx", "small.html", "mixmix evaluate small.onnx"):
        assert part in "\n".join(lines)
    first = (folder / "small.onnx").read_bytes()
    assert "<html" in (folder / "small.html").read_text()[:200]
    assert len(ImageSet.load(folder / "small.mixmix" / "images")) == 32
    # The run reproduces it, and so does the command, from the images that it has made.
    assert mixmix("run small.run.toml --out again") == 0
    assert (folder / "again" / "small.onnx").read_bytes() == first
    assert mixmix(f"compress net.onnx -o small.onnx {FEW} --json") == 0
    assert (folder / "small.onnx").read_bytes() == first


def test_a_checkpoint_with_its_code_and_names_of_classes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(network("normalized").state_dict(), folder / "net.safetensors")
    torch.save({"state_dict": network("normalized").state_dict()}, folder / "net.pth")
    (folder / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n\n")
    for weights in ("net.safetensors", "net.pth"):
        reference = f"python:networks_to_compress:normalized@{weights}"
        command = f"compress {reference} -o small.onnx {FEW} --input-shape 3,16,16 --json"
        assert mixmix(f"{command} --classes names.txt") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["setting"] == "W8A8" and found["before"]["size_bytes"] > 0
        (folder / "small.mixmix").rename(folder / f"{weights}.made")


@pytest.mark.parametrize(
    ("options", "images", "methods"),
    [
        ("--data photos", 12, ["quantize"]),
        ("--images photos --synthetic -n 8 --iterations 1", 20, ["quantize"]),
        ("--data photos --prune 0.4 --recipe short.toml", 12, ["prune-channels"]),
        ("--data photos --prune 0.4 --bits none", 12, ["prune-channels"]),
    ],
)
def test_photographs_and_pruning(
    folder: Path, capsys: pytest.CaptureFixture[str], options: str, images: int, methods: list[str]
) -> None:
    draws = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    flat = torch.zeros(12, dtype=torch.int64)
    ImageSet(draws, flat, torch.full((12, 5), 0.2), {}).export_image_folder(folder / "photos")
    recovery = '[[methods]]\nmethod = "prune-channels"\nmax_macs = 0.6\nrecovery = []\n'
    (folder / "short.toml").write_text(recovery)
    write_onnx("normalized", "net.onnx", dynamo=False)
    code = mixmix(f"compress net.onnx -o small.onnx {SAID} {options} --json")
    printed = capsys.readouterr()
    if "--recipe" in options:
        assert code == 2 and "--recipe has the methods; leave out" in printed.err
        return
    found = json.loads(printed.out)
    assert code == 0 and found["num_images"] == images
    assert ("of MACs" in found["setting"]) == ("--prune" in options)
    assert (found["macs"] < found["before"]["macs"]) == ("--prune" in options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "net.onnx -o x.onnx",
            "does not specify its mean, std; .* usually --mean 0.485,0.456,0.406",
        ),
        (f"net.onnx -o net.onnx {SAID}", "is the network itself"),
        (f"net.onnx -o x.tflite {SAID}", "must name a file that ends in .onnx"),
        ("net.onnx -o x.onnx --mean 0.5 0.5 0.5 --std 0.2", "with commas, such as 0.5,0.5,0.5"),
        ("net.onnx -o x.onnx --mean a,b,c --std 0.2", "'a,b,c' are not numbers"),
        ("net.onnx -o x.onnx --mean 124 --std 58", "divide both by 255"),
        (f"net.onnx -o x.onnx {SAID} --bits W1A1", "bits must look like W4A8"),
        (f"net.onnx -o x.onnx {SAID} --bits none", "nothing to do"),
        (f"net.onnx -o x.onnx {SAID} --prune 40", "between 0 and 1, got 40"),
        (f"net.onnx -o x.onnx {SAID} --data absent", "no folder of images at absent"),
        (f"net.onnx -o x.onnx {SAID} --data . --iterations 3", "add --synthetic"),
        (f"net.onnx -o x.onnx {SAID} --classes absent.txt", "cannot read the classes in absent"),
        (f"net.onnx -o x.onnx {SAID} --num-classes 7", "check num_classes"),
        (f"net.onnx -o x.onnx {SAID} --input-shape 16,16", "input_shape"),
        (f"net.onnx -o x.onnx {SAID} --input-shape 16,16,3", "did you mean 3,16,16?"),
        (f"net.onnx -o x.onnx {SAID} --bits none --prune 0.4 --keep 0", "--keep is for quantiz"),
        (
            "python:networks_to_compress:plain -o x.onnx",
            "does not specify its input_shape, mean, std",
        ),
    ],
)
def test_slips_are_one_line_that_says_what_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    write_onnx("normalized", "net.onnx", dynamo=False)
    assert mixmix(f"compress {arguments}") == 2
    printed = capsys.readouterr().err.strip()
    assert "\n" not in printed and re.search(message, printed), printed
