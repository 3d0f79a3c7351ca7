"""The command line as a person and a machine meet it: whole flow, help, bad input, a killed run."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from in_process import mixmix
from safetensors.torch import load_file, save_file

from mixmix.cli.app import COMMANDS

MODELS = """
import torch
from torch import nn

def small(width=8, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, stride=4, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(width, 10),
        )

def other():
    return small(12, 1)

def branching():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()

        def forward(self, x):
            return self.net(x) if float(x.sum()) > 1e9 else self.net(-x)

    return Branching()

def not_a_module():
    return 3
"""
SPEC = {
    "name": "small",
    "source": "python:cli_models:small",
    "input_shape": [3, 32, 32],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "num_classes": 10,
    "label_set": "cifar10",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two networks and their specs, on the path and current."""
    (tmp_path / "cli_models.py").write_text(MODELS)
    (tmp_path / "small.json").write_text(json.dumps(SPEC))
    other = SPEC | {"name": "other", "source": "python:cli_models:other"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("cli_models", None)
    return tmp_path


SYNTHESIZE = [
    "synthesize",
    "--zoo",
    "small.json",
    "--zoo",
    "other.json",
    "--out",
    "images",
    "--num-images",
    "40",
    "--batch-size",
    "20",
    "--iterations",
    "3",
]


def test_whole_flow(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed() -> dict[str, object]:
        content: dict[str, object] = json.loads(capsys.readouterr().out)
        return content

    assert mixmix(*SYNTHESIZE, "--json") == 0
    assert printed()["num_images"] == 40
    assert (folder / "images" / "contact-sheet.png").exists()
    assert mixmix("export", "images", "--out", "pngs", "--json") == 0
    assert printed()["num_images"] == 40
    assert len(list((folder / "pngs").glob("*/*.png"))) == 40
    command = "quantize -m small.json --data images --bits W4A4 --iterations 3 --out q.onnx --json"
    assert mixmix(*command.split()) == 0
    quantized = printed()
    assert quantized["setting"] == "W4A4"
    layers = quantized["layers"]
    assert isinstance(layers, list) and len(layers) == 5
    assert mixmix("export", "small.json", "--out", "float.onnx", "--json") == 0
    capsys.readouterr()
    assert mixmix("evaluate", "q.onnx", "--reference", "float.onnx", "--json") == 0
    evaluation = printed()
    assert evaluation["num_images"] == 1000
    assert 0 <= float(str(evaluation["agreement"])) <= 100
    assert mixmix("zoo", "show", "small.json", "--json") == 0
    assert printed()["num_batch_norms"] == 2
    assert mixmix("zoo", "list", "--json") == 0
    assert isinstance(printed()["models"], list)


@pytest.mark.parametrize(
    "command",
    [command.path for command in COMMANDS],
)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mixmix(*command.split(), "--help") == 0
    assert f"mixmix {command}" in " ".join(capsys.readouterr().out.split())


def write(name: str, content: bytes | str) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def spec(**changes: object) -> Callable[[Path], None]:
    return write("bad.json", json.dumps(SPEC | changes))


def with_weights(**changes: torch.Tensor) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        import cli_models  # type: ignore[import-not-found]

        state = cli_models.small().state_dict()
        save_file(state | changes, folder / "bad.safetensors")
        spec(weights="bad.safetensors")(folder)

    return prepare


def truncated_weights(folder: Path) -> None:
    with_weights()(folder)
    path = folder / "bad.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def truncated_shard(folder: Path) -> None:
    assert mixmix(*SYNTHESIZE) == 0
    for path in (folder / "images").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])


def images_made(folder: Path) -> None:
    assert mixmix(*SYNTHESIZE) == 0


def nothing(folder: Path) -> None:
    return None


ONE = "synthesize --iterations 1 --num-images 4 --batch-size 4 --out x --zoo "
QUANTIZE = "quantize -m small.json --images images "
BAD_INPUT: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "unknown-network": (nothing, ONE + "bundled:nope", "nope"),
    "unknown-of-the-catalog": (nothing, ONE + "imagenet:lenet", "efficientnet_lite0"),
    "no-such-graph": (nothing, ONE + "absent.onnx", "absent.onnx"),
    "graph-with-weights": (nothing, ONE + "absent.pt2@w.safetensors", "absent.pt2"),
    "no-spec-file": (nothing, ONE + "absent.json", "absent.json"),
    "spec-is-no-json": (write("bad.json", "{"), ONE + "bad.json", "bad.json"),
    "spec-lacks-keys": (write("bad.json", "{}"), ONE + "bad.json", "input_shape"),
    "spec-unknown-key": (spec(classez=[]), ONE + "bad.json", "classez"),
    "std-of-zero": (spec(std=[0.1, 0.0, 0.1]), ONE + "bad.json", "std"),
    "two-means": (spec(mean=[0.1, 0.2]), ONE + "bad.json", "mean"),
    "wrong-classes": (spec(num_classes=7), ONE + "bad.json", "num_classes"),
    "wrong-channels": (
        spec(input_shape=[1, 32, 32], mean=[0.5], std=[0.5]),
        ONE + "bad.json",
        "input_shape",
    ),
    "no-such-callable": (spec(source="python:cli_models:nope"), ONE + "bad.json", "nope"),
    "no-module": (spec(source="python:cli_models:not_a_module"), ONE + "bad.json", "module"),
    "truncated-weights": (truncated_weights, ONE + "bad.json", "bad.safetensors"),
    "wrong-shape": (with_weights(**{"8.bias": torch.zeros(3)}), ONE + "bad.json", "8.bias"),
    "nan-weights": (
        with_weights(**{"8.bias": torch.full((10,), torch.nan)}),
        ONE + "bad.json",
        "NaN",
    ),
    "classes-differ": (
        spec(name="bad", label_map=[0, 1]),
        ONE + "small.json --zoo bad.json",
        "label_map has 2 entries",
    ),
    "weights-too-few": (
        nothing,
        ONE + "small.json --weight 1 --weight 2",
        "for each of the 1 networks, got [1.0, 2.0]",
    ),
    "scales-fall": (nothing, ONE + "small.json --scale 0.5 --scale 0.2", "increasing"),
    "too-little-memory": (nothing, ONE + "small.json --memory-gib 0.0001", "lower batch_size"),
    "same-name-twice": (nothing, ONE + "small.json --zoo small.json", "different names"),
    "unknown-recipe": (nothing, ONE + "small.json --recipe magic", "magic"),
    "no-images": (nothing, ONE + "small.json --num-images 0", "num_images"),
    "not-a-number": (nothing, ONE + "small.json --seed x", "seed"),
    "no-such-device": (nothing, ONE + "small.json --device cuda:7", "device"),
    "other-settings": (images_made, " ".join(SYNTHESIZE) + " --iterations 4", "settings"),
    "no-data-set": (nothing, "quantize -m small.json --data absent --out q.onnx", "absent"),
    "shards-corrupt": (
        truncated_shard,
        "quantize -m small.json --data images --out q.onnx",
        "shard-00000",
    ),
    "bits": (images_made, "quantize -m small.json --data images --bits W1A1 --out q.onnx", "W1A1"),
    "suffix": (images_made, "quantize -m small.json --data images --out q.pt", ".onnx"),
    "two-ways-to-choose-bits": (
        images_made,
        QUANTIZE + "--out q.onnx --max-size 0.2 --train 2",
        "--train",
    ),
    "choices-without-budget": (
        images_made,
        QUANTIZE + "--out q.onnx --choices W2A8",
        "--max-bitops",
    ),
    "budget-too-small": (images_made, QUANTIZE + "--out q.onnx --max-size 0.01", "does not fit"),
    "all-images-held-out": (
        images_made,
        QUANTIZE + "--out q.onnx --held-out 40",
        "held_out must be from 1 to",
    ),
    "not-capturable": (
        lambda folder: (images_made(folder), spec(source="python:cli_models:branching")(folder))[1],
        "quantize -m bad.json --data images --out q.onnx",
        "captured",
    ),
    "onnx-corrupt": (write("bad.onnx", "not a model"), "evaluate bad.onnx", "bad.onnx"),
    "onnx-absent": (nothing, "evaluate absent.onnx", "absent.onnx"),
    "no-labeled-images": (
        lambda folder: (folder / "empty").mkdir(exist_ok=True),
        "evaluate small.json --data empty",
        "contains no images",
    ),
    "no-command": (nothing, "compres", "compres"),
    "out-is-a-file": (write("x", ""), ONE + "small.json", "x"),
}


def test_bits_within_a_budget_and_an_estimate(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images_made(folder)
    command = QUANTIZE + "--max-bitops 0.03 --choices W2A8,W8A8 --held-out 20 --iterations 2"
    assert mixmix(*command.split(), "--sensitivity", "s.json", "--out", "q.onnx") == 0
    printed = capsys.readouterr().out
    assert "points of accuracy" in printed
    assert "W2A8" in printed
    assert len(json.loads((folder / "s.json").read_text())["layers"]) == 3


def test_training_goes_on_from_its_checkpoints(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images_made(folder)
    command = QUANTIZE + "--bits W3A3 --all-layers --iterations 2 --train 2 --checkpoints ckpt"
    for out in ("first.onnx", "again.onnx"):
        capsys.readouterr()
        assert mixmix(*command.split(), "--out", out, "--json") == 0
    assert (folder / "first.onnx").read_bytes() == (folder / "again.onnx").read_bytes()
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert {layer["weight_bits"] for layer in layers if layer["action"] == "quantized"} == {3}


PRUNE = "prune -m small.json --images images --json --out pruned."


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ("safetensors --sparsity 0.6 --criterion wanda --recovery bn --recovery reconstruct", None),
        ("onnx --pattern 2:4 --recovery none --then-quantize W8A8 --held-out 4", 8),
        ("onnx --pattern 2:4 --recovery none --then-quantize W8A8 --data images --held-out 4", 8),
        ("onnx --steps 3 --checkpoints steps --skip 0 --allocation global", None),
        ("onnx --recovery none --then-quantize W8A8 --then-train 2 --checkpoints steps", 8),
    ],
)
def test_pruning(
    folder: Path, capsys: pytest.CaptureFixture[str], options: str, bits: int | None
) -> None:
    assert mixmix(*SYNTHESIZE) == 0
    capsys.readouterr()
    assert mixmix(*(PRUNE + options).split()) == 0
    content = json.loads(capsys.readouterr().out)
    assert Path(content["out"]).stat().st_size == content["size_bytes"]
    pruned = [layer for layer in content["layers"] if layer["sparsity"]]
    assert pruned and all(layer["weight_bits"] == bits for layer in pruned)
    assert content["sparsity"] > 0.35
    assert content["estimate"]["num_images"] == (4 if "--held-out" in options else 10)
    assert (folder / "steps").exists() == ("--checkpoints" in options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("bin", "must name a file that ends in .onnx, .pt2, .safetensors"),
        ("onnx --pattern 2:4 --sparsity 0.5", "leave out --sparsity"),
        ("onnx --recovery bn --steps 3", "is for fine-tuning"),
        ("onnx --recovery bn --max-macs 0.5 --checkpoints c", "add --recovery fine-tune"),
        ("onnx --then-train 3", "set its bits with --then-quantize"),
        ("onnx --recovery rest", "--recovery must be none or bn, reconstruct, fine-tune"),
    ],
)
def test_pruning_of_another_kind_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert mixmix(*(PRUNE + options).split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(BAD_INPUT))
def test_bad_input_is_one_line_and_exit_code_2(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, command, mentioned = BAD_INPUT[name]
    prepare(folder)
    capsys.readouterr()
    assert mixmix(*command.split()) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert errors[-1].startswith("error: ")
    assert mentioned in errors[-1]
    assert not any("Traceback" in line for line in errors)


@pytest.mark.parametrize(("rank", "num_lines"), [("0", 1), ("1", 0)])
def test_command_for_one_process_is_refused_under_torchrun(
    rank: str,
    num_lines: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    assert mixmix("evaluate", "small.json") == 2
    # The main process speaks for all.
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == num_lines
    assert all("works in one process, torchrun started 2" in line for line in errors)


def test_killed_run_resumes_to_the_same_bits(folder: Path) -> None:
    command = [sys.executable, "-m", "mixmix.cli.main"]
    options = [
        "synthesize",
        "--zoo",
        "small.json",
        "--num-images",
        "64",
        "--batch-size",
        "8",
        "--iterations",
        "40",
        "--threads",
        "1",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    process = subprocess.Popen(
        [*command, *options, "--out", "killed"], env=environment, stderr=subprocess.DEVNULL
    )
    while not list((folder / "killed").glob("shard-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(list((folder / "killed").glob("shard-*")))
    assert finished >= 1
    for out in ("killed", "whole"):
        assert mixmix(*options, "--out", out) == 0
    files = sorted(path.name for path in (folder / "whole").iterdir())
    left = [path.name for path in (folder / "killed").iterdir() if not path.name.startswith(".")]
    assert sorted(left) == files
    for name in ("run.toml", "index.html"):  # which name the folder
        files.remove(name)
    for name in files:
        assert (folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes()


RUN = """
seed = 3
threads = 1

[model]
reference = "small.json"

[zoo]
models = ["small.json", "other.json"]
weights = [1.0, 2.0]

[synthesis]
recipe = "feature-mixing"
num_images = 40
batch_size = 20
iterations = 2

[images]
held_out = 4

[[methods]]
method = "prune-channels"
max_macs = 0.7
round_to = 1
recovery = [{recovery = "batch-norm"}, {recovery = "fine-tune", held_out = 0, training.steps = 2}]

[[methods]]
method = "quantize-aware"
held_out = 0
training.steps = 2
base = {method = "quantize", bits = "W4A4", reconstruction.iterations = 2, first_last_bits = "none"}

[export]
file = "small.onnx"

[evaluation]
reference = "small.json"
"""


def bits(folder: Path) -> dict[str, object]:
    """The results of a run: all but the run itself and its pages, which have times and paths."""
    told = (".toml", ".html", ".md")
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in told]
    return {path.name: content_of(path) for path in found}


def content_of(path: Path) -> object:
    if path.suffix != ".safetensors":
        return path.read_bytes()
    # Its header has no order.
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


def test_a_run_is_a_file_and_gives_the_same_bits(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "whole.toml").write_text(RUN)
    printed = []
    for out in ("first", "again"):
        assert mixmix("run", "whole.toml", "--out", out, "--json") == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert mixmix("run", "first/small.run.toml", "--out", "third", "--json") == 0
    printed.append(json.loads(capsys.readouterr().out))
    assert bits(folder / "first") == bits(folder / "again") == bits(folder / "third")
    assert printed[0]["evaluation"] == printed[1]["evaluation"] == printed[2]["evaluation"]
    assert printed[0]["run"] == "first/small.run.toml"
    assert printed[0]["evaluation"]["num_images"] == 1000
    assert printed[0]["export"]["estimate"] is not None
    assert {"small.onnx", "manifest.json"} <= bits(folder / "first").keys()
    assert mixmix("run", "first/small.run.toml", "--out", "fourth") == 0
    assert "top-1 accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "record"),
    [
        (" ".join(SYNTHESIZE).replace(" images", " made/x") + " --scale 0.5", "made/x/run.toml"),
        (
            "generate --zoo small.json -n 20 --warmup-rounds 1 --steps 1 --batch-size 8 --out made",
            "made/run.toml",
        ),
        (
            "quantize -m small.json --data images --bits W4A4 --iterations 2 --all-layers "
            "--per-tensor --no-equalize --out made/q.onnx",
            "made/q.run.toml",
        ),
        (
            "prune -m small.json --data images --sparsity 0.6 --recovery bn --skip 0 "
            "--out made/p.safetensors",
            "made/p.run.toml",
        ),
        (
            "distill -m small.json --student other.json --data images --steps 2 --batch-size 8 "
            "--out made/s.onnx",
            "made/s.run.toml",
        ),
        ("export small.json --out made/float.onnx", "made/float.run.toml"),
        ("export images --out made", "made/run.toml"),
    ],
)
def test_commands_leave_a_file_that_reproduces_them(
    folder: Path, command: str, record: str
) -> None:
    images_made(folder)
    assert mixmix(*command.split(), "--threads", "1") == 0
    text = (folder / record).read_text()
    assert f"mixmix {command}" in text
    place = str(Path(record).parent)
    assert mixmix("run", record, "--out", "again") == 0
    made, again = bits(folder / place), bits(folder / "again")
    assert made and made == again


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[model", "cannot read the run bad.toml"),
        ("speed = 3", "bad.toml: Run has no 'speed'; it has device, evaluation"),
        ("[export]\nfolder = 'x'", "ExportSection has no 'folder'; it has file, layout"),
        ("seed = 'x'", "Run.seed must be a whole number, got 'x'"),
        ("[model]", "ModelSection: "),
        ("[synthesis]", "add [zoo]"),
        ("[[methods]]\nmethod = 'quantize'", "add [model]"),
        ("", "bad.toml: nothing to run; add [synthesis]"),
        ("seed = 3\n[model]\nreference = 'small.json'", "bad.toml: nothing to run"),
        ("out = 'a\\u0000'\n[export]".replace("'", '"'), "is no path: it has a NUL character"),
        ("device = 'meta'\n[export]", "device 'meta' cannot be used"),
        ("[evaluation]", "nothing to evaluate"),
        ("[export]", "nothing to export"),
        ("[zoo]\nmodels = ['small.json']\n[synthesis]\nspeed = 3", "SynthesisSettings has no 's"),
        ("[zoo]\nmodels = ['small.json']\n[synthesis]\njitter = 'x'", "SynthesisSettings.jitter"),
        ("[model]\nreference = 'small.json'\n[[methods]]\nbits = 3", "needs a method: "),
        (
            "[model]\nreference = 'small.json'\n[[methods]]\nmethod = 'shrink'",
            "unknown method 'shrink'; known: distill",
        ),
        (
            "[model]\nreference = 'small.json'\n[[methods]]\nmethod = 'quantize'\nbit = 'W8A8'",
            "Quantize has no 'bit'; it has bits",
        ),
        (
            "[model]\nreference = 'small.json'\n[[methods]]\nmethod = 'quantize'\n"
            "reconstruction.steps = 3",
            "ReconstructionSettings has no 'steps'",
        ),
    ],
)
def test_bad_runs_are_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (folder / "bad.toml").write_text(content)
    assert mixmix("run", "bad.toml") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and message in errors[0]


def test_evaluation_on_a_folder_for_each_class(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images_made(folder)
    assert mixmix("export", "images", "--out", "pngs") == 0
    own = SPEC | {"label_set": "own", "input_shape": [3, 24, 24]}
    (folder / "own.json").write_text(json.dumps(own))
    capsys.readouterr()
    assert mixmix("evaluate", "own.json", "--data", "pngs", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 40
    assert mixmix("evaluate", "own.json", "--data", "images") == 2
    assert "its label set is own, that of the image set is cifar10" in capsys.readouterr().err


DISTILL = "distill -m small.json --student other.json --json --out student."


def test_distilling_goes_on_from_its_checkpoints(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mixmix(*SYNTHESIZE) == 0
    command = DISTILL + "safetensors --data images --steps 3 --batch-size 8 --checkpoints run"
    contents = []
    for _ in range(2):
        capsys.readouterr()
        assert mixmix(*command.split()) == 0
        contents.append(json.loads(capsys.readouterr().out))
    assert contents[0] == contents[1] and contents[0]["teacher"] == "small"
    assert {layer["action"] for layer in contents[0]["layers"]} == {"trained"}
    module = importlib.import_module("cli_models").other()
    module.load_state_dict(load_file(folder / "student.safetensors"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("onnx", "add --zoo, --images, or both"),
        ("onnx --data images --every-steps 5", "is for the networks of --zoo"),
        ("bin --data images", "must name a file that ends in .onnx, .pt2, .safetensors"),
    ],
)
def test_bad_options_of_distilling(
    folder: Path, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert mixmix(*(DISTILL + options).split()) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_images_are_refined_for_another_network(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mixmix(*SYNTHESIZE) == 0
    capsys.readouterr()
    command = "synthesize --zoo other.json --start images --out refined --iterations 1 --json"
    assert mixmix(*command.split()) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 40
    assert mixmix(*command.replace("refined", "more").split(), "--num-images", "9") == 2
    assert "leave out --num-images" in " ".join(capsys.readouterr().err.split())


def test_growing_images_and_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ONE.replace("--out x", "--out grown --scale 0.5 --weight 3 --weight 1 --json")
    assert mixmix(*command.split(), "small.json", "--zoo", "other.json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["num_images"] == 4
    assert "GiB at the peak" in printed.err
    manifest = json.loads((folder / "grown" / "manifest.json").read_text())
    assert manifest["settings"]["scales"] == [0.5, 1.0]
    assert [member["weight"] for member in manifest["members"]] == [3, 1]


def test_generate_makes_many_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "generate --zoo small.json -n 20 --warmup-rounds 1 --steps 1 --batch-size 8 --json"
    assert mixmix(*command.split(), "--out", "many") == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 20
    assert (folder / "many" / "contact-sheet.png").exists()
