"""The programs of docs/deploy.md run files as they are written, and agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import mixmix

PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy")
    images, _ = mixmix.load_evaluation_pack().tensors
    compressed = mixmix.compress("bundled:resnet", images[:64], "W8A8")
    mixmix.export(compressed, folder / "small.onnx")
    mixmix.export(compressed, folder / "whole.onnx", with_preprocessing=True, with_softmax=True)
    pixels = (images[70] * 255).to(torch.uint8) if images.is_floating_point() else images[70]
    # Without loss, whatever its name.
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / "photo.jpg", "PNG")
    return folder


def test_the_page_has_programs_of_about_twelve_lines() -> None:
    assert len(PROGRAMS) == 4
    for program in PROGRAMS:
        lines = [line for line in program.splitlines() if line]
        assert len([line for line in lines if not re.match(r"import|from", line)]) <= 12


@pytest.mark.parametrize("index", range(len(PROGRAMS)))
def test_programs_run_and_agree(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], index: int
) -> None:
    if "openvino" in PROGRAMS[index]:
        pytest.importorskip("openvino")
    monkeypatch.chdir(folder)
    names = mixmix.load("bundled:resnet").spec.classes
    image = mixmix.as_image_set(str(folder), mixmix.load("bundled:resnet")).images[:1]
    expected = int(mixmix.load("bundled:resnet")(image).argmax())
    exec(compile(PROGRAMS[index], str(PAGE), "exec"), {})
    printed = capsys.readouterr().out.split()[0]
    assert printed in (str(expected), names[expected])
