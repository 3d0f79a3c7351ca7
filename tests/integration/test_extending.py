"""The package and the program of docs/extending.md, run as they stand, in a new process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import mixmix
from mixmix.synthesis import terms

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"

READ_TERMS = """
from mixmix.models.references import tomllib

content = tomllib.loads(Path("terms.toml").read_text(encoding="utf-8"))["synthesis"]
assert SynthesisSettings.from_dict(content) == recipe("mixmix").with_term(GrayWorld(weight=0.5))
"""


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def install(folder: Path) -> str:
    """Write the package, with its entry points as an installer does; gives the program."""
    (folder / "my_mixmix").mkdir()
    program = []
    for block in blocks("python"):
        if "GrayWorld" in block and not hasattr(terms, "Term"):
            continue
        named = re.match(r"# (my_mixmix/\w+\.py)\n", block)
        if named:
            (folder / named[1]).write_text(block, encoding="utf-8")
        else:
            program.append(block)
    project, run = blocks("toml")
    (folder / "terms.toml").write_text(run, encoding="utf-8")
    program.append(READ_TERMS)
    notes = folder / "my_mixmix-0.1.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text("Metadata-Version: 2.1\nName: my-mixmix\nVersion: 0.1\n")
    points = re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", project)
    points = points[points.index("[mixmix.") :].replace('"', "")
    (notes / "entry_points.txt").write_text(points, encoding="utf-8")
    return "\n".join(program)


def test_the_page_runs(tmp_path: Path) -> None:
    program = tmp_path / "page.py"
    program.write_text(install(tmp_path), encoding="utf-8")
    paths = [
        str(tmp_path),
        str(Path(str(mixmix.__file__)).parents[1]),
        os.environ.get("PYTHONPATH", ""),
    ]
    result = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "small.onnx").stat().st_size > 0
