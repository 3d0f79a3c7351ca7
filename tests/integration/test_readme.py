"""The README's Python example, run as it stands but for smaller settings."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

import mixmix
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.demo.bundled import bundled_names

README = Path(__file__).parents[2] / "README.md"


def python_example() -> str:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def test_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = python_example()
    absent = sorted(set(re.findall(r"bundled:(\w+)", example)) - set(bundled_names()))
    if absent:
        pytest.skip(f"not in this checkout: the weights of {', '.join(absent)}")
    settings = mixmix.recipe("mixmix", num_images=32, batch_size=32, iterations=3)
    short = ReconstructionSettings(iterations=3)
    monkeypatch.setattr(mixmix, "synthesize", partial(mixmix.synthesize, settings=settings))
    monkeypatch.setattr(mixmix, "Quantize", partial(mixmix.Quantize, reconstruction=short))
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    exec(compile(example, str(README), "exec"), namespace)
    assert (tmp_path / "resnet-w4a4.onnx").stat().st_size > 0
    assert "top1" in capsys.readouterr().out


def test_example_imports_what_the_package_exports() -> None:
    names = re.findall(r"from mixmix import (.*)", python_example())[0].split(", ")
    assert set(names) <= set(mixmix.__all__)


def test_continuous_integration_runs_the_commands_of_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    script = (README.parent / ".ci" / "run").read_text(encoding="utf-8")
    commands = re.search(r"\.venv/bin/(pip install -e \S+) && \.venv/bin/(pytest) (.+)\n", text)
    assert commands is not None
    install, test, options = commands.groups()
    assert install.replace("pip install", 'pip" install --quiet') in script
    assert script.rstrip().endswith(f'bin/{test}" {options}')
