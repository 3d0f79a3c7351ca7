"""Commands that take time, made small, as processes with bitwise repeatable results."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COMMANDS", "Command", "Ended", "environment", "inputs", "leftovers", "result"]

_SECONDS = 300
_VERSION_LINES = (b"# ",)


@dataclass(frozen=True)
class Command:
    """A command, whose ``{inputs}`` are images, and whose files are below ``{out}``."""

    name: str
    arguments: str

    def line(self, inputs: Path, out: Path) -> list[str]:
        """The command line of a process."""
        words = [word.format(inputs=inputs, out=out) for word in self.arguments.split()]
        threads = [] if words[0] == "run" else ["--threads", "1"]
        return [sys.executable, "-W", "ignore", "-m", "mixmix", *words, *threads]


_MODEL = "-m bundled:resnet --data {inputs}/images"
_TINY = "quantize " + _MODEL + " --bits W4A4 --iterations 3 --out {out}/model.onnx"

COMMANDS = {
    each.name: each
    for each in (
        Command(
            "synthesize",
            "synthesize --zoo bundled:vgg -n 12 --batch-size 4 --iterations 4 --out {out}/images",
        ),
        Command(
            "generate",
            "generate --zoo bundled:vgg -n 12 --batch-size 4 --steps 2 --warmup-rounds 1 "
            "--out {out}/images",
        ),
        Command("quantize", _TINY),
        Command(
            "mixed precision",
            _TINY.replace("--bits W4A4", "--max-size 0.2") + " --sensitivity {out}/table.json",
        ),
        Command(
            "prune weights",
            "prune " + _MODEL + " --sparsity 0.5 --recovery fine-tune --steps 4 "
            "--checkpoints {out}/run --out {out}/model.safetensors",
        ),
        Command(
            "prune channels",
            "prune " + _MODEL + " --max-macs 0.8 --recovery fine-tune --steps 4 "
            "--checkpoints {out}/run --out {out}/model.onnx",
        ),
        Command(
            "prune blocks",
            "prune "
            + _MODEL.replace("resnet", "mobilenetv2")
            + " --max-macs 0.8 --blocks --recovery fine-tune --steps 4 "
            "--checkpoints {out}/run --out {out}/model.onnx",
        ),
        Command(
            "distill",
            "distill -m bundled:resnet --student bundled:vgg --data {inputs}/images --steps 4 "
            "--batch-size 4 --checkpoints {out}/run --out {out}/model.onnx",
        ),
        Command(
            "train quantized",
            "quantize " + _MODEL + " --bits W4A4 --iterations 2 --train 4 "
            "--checkpoints {out}/run --out {out}/model.onnx",
        ),
        Command("run", "run {inputs}/run.toml --out {out}"),
    )
}
_RUN = """
[zoo]
models = ["bundled:vgg"]
[synthesis]
num_images = 8
batch_size = 4
iterations = 3
[model]
reference = "bundled:resnet"
[[methods]]
method = "prune"
sparsity = 0.5
recovery = []
[[methods]]
method = "quantize"
bits = "W8A8"
reconstruction = { iterations = 2 }
[export]
"""


def environment(temporary: Path, **more: str) -> dict[str, str]:
    """The environment of a process: one thread, a folder of its own for temporary files."""
    source = Path(__file__).parents[1] / "src"
    path = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    own = {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary), "PYTHONPATH": path}
    own["MIXMIX_TRACEBACK"] = "1"  # unexpected errors are faults, not lines
    return os.environ | own | more


@dataclass(frozen=True)
class Ended:
    """How a process ended; ``code`` is None if it did not within its time."""

    code: int | None
    error: str

    @property
    def has_traceback(self) -> bool:
        """Whether it ended with more than a line, or crashed."""
        crashed = self.code in (-4, -6, -7, -8, -11)
        return crashed or "Traceback (most recent call last)" in self.error


def run(
    line: list[str], env: Mapping[str, str], *, seconds: float = _SECONDS, **options: object
) -> Ended:
    """Run a process to its end."""
    try:
        done = subprocess.run(
            line, env=dict(env), capture_output=True, text=True, timeout=seconds, **options
        )
    except subprocess.TimeoutExpired:
        return Ended(None, "")
    return Ended(done.returncode, done.stderr)


def inputs(folder: Path, temporary: Path) -> Path:
    """Make the images that commands need, once."""
    if not (folder / "images" / "manifest.json").exists():
        line = [sys.executable, "-m", "mixmix", "synthesize", "--zoo", "bundled:vgg", "-n", "16"]
        line += ["--batch-size", "16", "--iterations", "2", "--threads", "1"]
        ended = run([*line, "--out", str(folder / "images")], environment(temporary))
        assert ended.code == 0, ended.error
        (folder / "run.toml").write_text(_RUN)
    return folder


def result(out: Path) -> dict[str, str]:
    """SHA-256 of all files below a folder, by their names; paths in the files count as equal.

    Pages and cards are left out, since they show measured times.
    """
    found = {}
    for path in sorted(each for each in out.rglob("*") if each.is_file()):
        if path.suffix in (".html", ".md"):
            continue
        content = path.read_bytes().replace(str(out).encode(), b"OUT")
        if path.suffix == ".toml":
            lines = content.splitlines()
            content = b"\n".join(each for each in lines if not each.startswith(_VERSION_LINES))
        found[str(path.relative_to(out))] = hashlib.sha256(content).hexdigest()
    return found


def leftovers(*folders: Path) -> list[str]:
    """Temporary files and locks below folders."""
    return [
        str(path)
        for folder in folders
        for path in folder.rglob("*")
        if path.name.endswith((".mixmix-tmp", ".lock")) or path.name.startswith("mixmix-")
    ]
