"""Slips of the finger: every error suggests the name that was meant."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mixmix._display import did_you_mean
from mixmix.cli.main import run


def mixmix(monkeypatch: pytest.MonkeyPatch, arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mixmix", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        run()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("quantise -m bundled:vgg", "did you mean 'quantize'?"),
        ("zoo sow bundled:vgg", "did you mean 'show'?"),
        ("evaluate bundeld:vgg", "did you mean 'bundled'?"),
        ("evaluate bundled:vgh", "did you mean 'vgg'?"),
        ("evaluate bundled:vgg --refrence bundled:vgg", "--reference"),
        ("synthesize --zoo bundled:vgg --recipe mixmx --out out", "did you mean 'mixmix'?"),
        ("evaluate flaot.onnx", "did you mean 'float.onnx'?"),
        ("evaluate nett.toml", "nett.toml"),
        ("zoo show net.toml", "did you mean 'num_classes'?"),
        ("run run.toml", "did you mean 'synthesis'?"),
        ("run methods.toml", "did you mean 'bits'?"),
        ("run spec.toml", "did you mean 'mean'?"),
    ],
)
def test_slips(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    meant: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("float.onnx").write_text("")
    spec = 'source = "python:m:f"\ninput_shape = [3, 8, 8]\nmean = 0.5\nstd = 0.2\nnum_clases = 3\n'
    Path("net.toml").write_text(spec)
    Path("run.toml").write_text("[sythesis]\nrecipe = 'mixmix'\n")
    methods = (
        "[model]\nreference = 'bundled:vgg'\n[[methods]]\nmethod = 'quantize'\nbist = 'W4A4'\n"
    )
    Path("methods.toml").write_text(methods)
    Path("spec.toml").write_text(
        "[spec]\nmaen = 0.5\n[zoo]\nmodels = ['bundled:vgg']\n[synthesis]\niterations = 1\n"
    )
    assert mixmix(monkeypatch, arguments) == 2
    printed = capsys.readouterr().err
    assert meant in printed and printed.count("\n") == 1


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import mixmix as package

    assert mixmix(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"mixmix {package.__version__}\n"


def test_names_that_are_near() -> None:
    assert did_you_mean("Resnet", ["vgg", "resnet"]) == "; did you mean 'resnet'?"
    assert did_you_mean(["q", "meen"], ["mean", "std"]) == "; did you mean 'mean'?"
    assert did_you_mean("quantize", []) == did_you_mean("xyz", ["mean"]) == ""


def test_modules_beside_a_spec_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = "nn.Sequential(nn.Flatten(), nn.Linear(192, 4))"
    code = f"from torch import nn\ndef build():\n    return {layers}\n"
    spec = 'source = "python:own_net_{}:build"\ninput_shape = [3, 8, 8]\nmean = 0.5\nstd = 0.2\n'
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "own_net_a.py").write_text(code)
    (tmp_path / "own_net_b.py").write_text(code)
    for name in "ab":
        text = spec.format(name) + "num_classes = 4\n"
        (tmp_path / "specs" / f"{name}.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        assert mixmix(monkeypatch, f"zoo show specs/{name}.toml") == 0
        assert "None" not in capsys.readouterr().out
