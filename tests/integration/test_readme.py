"""The first whole Python example of the README, run as it stands but with smaller settings.

``test_documentation.py`` checks what the other blocks name.
"""

from __future__ import annotations

import importlib
import re
from functools import partial
from pathlib import Path

import pytest

import mixmix
from mixmix.compress.quantize.reconstruction import ReconstructionSettings

README = Path(__file__).parents[2] / "README.md"


def test_the_first_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = README.read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    example = next(each for each in examples if each.startswith("import mixmix"))
    settings = mixmix.recipe("mixmix", num_images=32, batch_size=32, iterations=3)
    short = ReconstructionSettings(iterations=3)
    monkeypatch.setattr(mixmix, "synthesize", partial(mixmix.synthesize, settings=settings))
    compress = importlib.import_module("mixmix.compress.compress")
    monkeypatch.setattr(compress, "Quantize", partial(mixmix.Quantize, reconstruction=short))
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(README), "exec"), {})
    assert (tmp_path / "resnet-w4a4.onnx").stat().st_size > 0
    assert "top1" in capsys.readouterr().out


def test_continuous_integration_runs_the_commands_of_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    script = (README.parent / ".ci" / "run").read_text(encoding="utf-8")
    commands = re.search(r"\.venv/bin/(pip install -e \S+) && \.venv/bin/(pytest) (.+)\n", text)
    assert commands is not None
    install, test, options = commands.groups()
    assert install.replace("pip install", 'pip" install --quiet') in script
    assert script.rstrip().endswith(f'bin/{test}" {options}')
