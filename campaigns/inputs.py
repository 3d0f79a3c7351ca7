"""Damaged and hostile inputs of every kind: each command must end well.

    python campaigns/inputs.py --runs 5000 --seed 0 --out inputs.json

Each run changes a good file at random, by its seed, and gives it to a command in a worker process
with limits of time and memory. Right endings are success, and exit code 2 with one line.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import multiprocessing
import queue
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attacks import networks
from attacks.command_line import call
from campaigns.rows import FAULTS, Tally, arguments, finish

_SECONDS, _GIBIBYTES = 60, 12
_REPEATED = 0.02
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**40, 1.5, 1e308, -0.0),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "\0",
        "\x1b[2J",
        "\u202e",
        "é" * 50,
        "../" * 9,
        "a" * 9999,
    ),
    *([], {}, [[]], [0] * 1000, {"": 0}, {"a": {"b": [None]}}, "__import__('os')", "NaN"),
)


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Bytes with flipped bits, a missing end, or a copied or inserted part."""
    if not content:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(64)))
    changed = bytearray(content)
    kind = rng.randrange(5)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del changed[rng.randrange(len(changed)) :]
    elif kind == 2:
        start = rng.randrange(len(changed))
        del changed[start : start + rng.choice((1, 4, 64, 4096))]
    elif kind == 3:
        start = rng.randrange(len(changed))
        changed[start:start] = changed[start : start + rng.choice((1, 8, 512))]
    else:
        start = rng.randrange(len(changed))
        noise = rng.choice((bytes(8), b"\xff" * 8, struct.pack("<q", 2**62), rng.randbytes(16)))
        changed[start : start + len(noise)] = noise
    return bytes(changed)


def edited(rng: random.Random, document: Any) -> Any:
    """A JSON document in which one to three entries are replaced, removed, added or nested."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        waiting = [document]
        while waiting:
            part = waiting.pop()
            keys: Any = part if isinstance(part, dict) else range(len(part))
            places += [(part, key) for key in keys]
            waiting += [part[key] for key in keys if isinstance(part[key], dict | list)]
        if not places:
            return document
        part, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            del part[key]
        elif kind == 1 and isinstance(part, dict):
            part[rng.choice(("", "x", str(key) + "_", "\x1b"))] = part[key]
        elif kind == 2:
            part[key] = [part[key]] * rng.choice((1, 2, 100))
        elif kind == 3 and isinstance(part[key], int | float):
            part[key] = part[key] * rng.choice((-1, 0, 2, 10**6, 10**18))
        else:
            part[key] = copy.deepcopy(rng.choice(_ODD))
    return document


def _json(rng: random.Random, document: Any) -> bytes:
    text = json.dumps(edited(rng, document)).encode()
    return damaged(rng, text) if rng.random() < 0.2 else text


def _archive(rng: random.Random, content: bytes) -> tuple[bytes, bool]:
    """A changed archive, and whether only its bytes were damaged."""
    kind = rng.randrange(4)
    if kind == 0:
        return damaged(rng, content), True
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    target = rng.choice(names).partition("/")[2]
    if kind == 1:
        target = next((n.partition("/")[2] for n in names if n.endswith("model.json")), target)

    def change(name: str, entry: bytes) -> bytes | None:
        if name != target:
            return entry
        if name.endswith(".json"):
            return _json(rng, json.loads(entry))
        return None if rng.random() < 0.2 else damaged(rng, entry)

    return networks.rewritten(content, change), False


def _show(folder: Path, name: str, content: bytes, **fields: Any) -> list[str]:
    (folder / name).write_bytes(content)
    networks.write_spec(folder / "s.json", **({"source": name} | fields))
    return ["zoo", "show", "s.json", "--json"]


Case = tuple[list[str], bool]


def spec_json(rng: random.Random, folder: Path) -> Case:
    """A spec in JSON."""
    (folder / "m.onnx").write_bytes(networks.onnx_model().SerializeToString())
    names = {"classes": ["a", "b", "c", "d"], "label_set": "x", "label_map": [0, "b"], "top1": 9.0}
    spec = networks.SPEC | {"source": "m.onnx"} | names
    (folder / "s.json").write_bytes(_json(rng, spec))
    return ["zoo", "show", "s.json"], False


def spec_toml(rng: random.Random, folder: Path) -> Case:
    """A spec in TOML."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in networks.SPEC.items()]
    (folder / "s.toml").write_bytes(damaged(rng, "\n".join(lines).encode()))
    return ["zoo", "show", "s.toml"], False


def run_toml(rng: random.Random, folder: Path) -> Case:
    """A run in TOML."""
    import tomli_w

    run = {"seed": 0, "threads": 1, "evaluation": {"model": "absent.onnx"}, "export": {"file": "x"}}
    try:
        content = tomli_w.dumps(edited(rng, run)).encode()
    except (TypeError, ValueError, AttributeError):
        content = damaged(rng, tomli_w.dumps(run).encode())
    (folder / "run.toml").write_bytes(content)
    return ["run", "run.toml"], False


def onnx_bytes(rng: random.Random, folder: Path) -> Case:
    """Bytes of an ONNX file."""
    content = damaged(rng, networks.onnx_model().SerializeToString())
    return _show(folder, "m.onnx", content), False


def onnx_fields(rng: random.Random, folder: Path) -> Case:
    """Fields of an ONNX file."""
    from google.protobuf import json_format

    model = networks.onnx_model()
    document = edited(rng, json_format.MessageToDict(model))
    try:
        changed = json_format.ParseDict(document, type(model)(), ignore_unknown_fields=True)
        content = changed.SerializeToString()
    except Exception:
        content = damaged(rng, model.SerializeToString())
    return _show(folder, "m.onnx", content), False


def program(rng: random.Random, folder: Path) -> Case:
    """A program: its bytes, entries and documents."""
    content, only_damaged = _archive(rng, networks.program())
    (folder / "m.pt2").write_bytes(content)
    if rng.random() < 0.5:
        return ["evaluate", "m.pt2"], False
    return _show(folder, "m.pt2", content), only_damaged


def _weights(rng: random.Random, folder: Path, name: str, content: bytes) -> list[str]:
    (folder / "net.py").write_text("from attacks.networks import network\n")
    return _show(folder, name, content, source="python:attacks.networks:network", weights=name)


def pickled(rng: random.Random, folder: Path) -> Case:
    """A checkpoint of torch.save, in both formats."""
    import torch

    buffer = io.BytesIO()
    new = rng.random() < 0.7
    torch.save(
        {"state_dict": networks.network().state_dict(), "epoch": 3},
        buffer,
        _use_new_zipfile_serialization=new,
    )
    content, only = _archive(rng, buffer.getvalue()) if new else (buffer.getvalue(), False)
    content = content if new else damaged(rng, content)
    return _weights(rng, folder, "w.pth", content), only


def safetensors(rng: random.Random, folder: Path) -> Case:
    """A safetensors file: its header and its bytes."""
    from safetensors.torch import save

    content = save(networks.network().state_dict())
    if rng.random() < 0.5:
        size = struct.unpack("<Q", content[:8])[0]
        header = _json(rng, json.loads(content[8 : 8 + size]))
        content = struct.pack("<Q", len(header)) + header + content[8 + size :]
    else:
        content = damaged(rng, content)
    return _weights(rng, folder, "w.safetensors", content), False


def manifest(rng: random.Random, folder: Path) -> Case:
    """A folder of images: its manifest and its shards."""
    import torch

    from mixmix import ImageSet

    made = {"models": [{"name": "a", "classes": ["a", "b"]}], "classes": ["a", "b"], "origin": "x"}
    images = ImageSet(
        torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]), torch.eye(2).repeat(2, 1), made
    )
    images.save(folder / "images")
    target = rng.choice(sorted((folder / "images").iterdir()))
    content = target.read_bytes()
    is_json = target.suffix == ".json"
    target.write_bytes(_json(rng, json.loads(content)) if is_json else damaged(rng, content))
    return ["export", "images", "--out", "png"], False


def image(rng: random.Random, folder: Path) -> Case:
    """Image files."""
    from PIL import Image

    (folder / "m.onnx").write_bytes(networks.onnx_model().SerializeToString())
    networks.write_spec(folder / "s.json", source="m.onnx")
    buffer = io.BytesIO()
    form = rng.choice(("PNG", "JPEG", "BMP", "WEBP"))
    Image.new(rng.choice(("RGB", "L")), (9, 7)).save(buffer, form)
    for name in "abcd":
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / f"x.{form.lower()}").write_bytes(damaged(rng, buffer.getvalue()))
    return ["evaluate", "s.json", "--data", "data"], False


def preprocessor(rng: random.Random, folder: Path) -> Case:
    """Files of a Hugging Face repository."""
    config = {"model_type": "resnet", "num_channels": 3, "id2label": {"0": "a", "1": "b"}}
    processor = {
        **{"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": True},
        **{"do_rescale": True, "rescale_factor": 1 / 255, "size": {"height": 8, "width": 8}},
        **{"crop_size": 8, "do_center_crop": False, "feature_extractor_type": "x"},
    }
    if rng.random() < 0.3:
        config |= {"architecture": "resnet10t", "pretrained_cfg": {"input_size": [3, 8, 8]}}
    (folder / "repo").mkdir()
    (folder / "repo" / "config.json").write_bytes(_json(rng, config))
    (folder / "repo" / "preprocessor_config.json").write_bytes(_json(rng, processor))
    return ["zoo", "show", "hf:repo"], False


FAMILIES: tuple[Callable[[random.Random, Path], Case], ...] = (
    *(spec_json, spec_toml, run_toml, onnx_bytes, onnx_fields, program, pickled, safetensors),
    *(manifest, image, preprocessor),
)


def one(seed: int) -> dict[str, Any]:
    """Make one input, run its command, and say how it ended."""
    rng = random.Random(seed)
    family = rng.choice(FAMILIES)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        command, must_be_detected = family(rng, folder)
        ending = call(command, folder)
        ran = (folder / "MARKER").exists()
    return {
        **{"seed": seed, "family": family.__name__, "code": ending.code, "executions": ran},
        **{"tracebacks": not ending.is_good, "text": ending.traceback[-1500:] or ending.line},
        "sha256": ending.sha256 if must_be_detected and ending.code == 0 else "",
    }


def _work(tasks: Any, results: Any) -> None:
    limit = _GIBIBYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while (seed := tasks.get()) is not None:
        results.put(one(seed))


class _Worker:
    """A process that is started again when it hangs or dies."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self.tasks, self.results = self._context.Queue(), self._context.Queue()
        self.process = self._context.Process(
            target=_work, args=(self.tasks, self.results), daemon=True
        )
        self.process.start()

    def run(self, seed: int) -> dict[str, Any]:
        """The result of one input, or how the process failed."""
        self.tasks.put(seed)
        start = time.monotonic()
        while time.monotonic() - start < 2 * _SECONDS:
            try:
                result: dict[str, Any] = self.results.get(timeout=0.5)
            except queue.Empty:
                if not self.process.is_alive():
                    self._start()
                    return {"seed": seed, "lost": True, "text": "the process died"}
                continue
            took = time.monotonic() - start
            return result | {"hangs": took > _SECONDS, "seconds": round(took, 2)}
        self.process.kill()
        self._start()
        return {"seed": seed, "hangs": True, "text": "no end"}

    def stop(self) -> None:
        """End the process."""
        self.tasks.put(None)
        self.process.join(5)
        self.process.kill()


def campaign(runs: int, seed: int, *, report: bool = False) -> dict[str, Any]:
    """Run seeded inputs and count how they end."""
    worker, counts, codes, failures = _Worker(), Counter[str](), Counter[str](), []
    rng = random.Random(seed)
    for index in range(runs):
        own = seed * 10**6 + index
        result = worker.run(own)
        # Only archives have checksums: damage to them must not give other weights.
        if result.get("sha256", "") not in {"", *good_hashes()}:
            result["silent_wrong"] = True
        if rng.random() < _REPEATED and "code" in result:
            again = worker.run(own)
            result["not_identical"] = again.get("code") != result["code"]
        codes[f"{result.get('family')} {result.get('code')}"] += 1
        bad = [name for name in FAULTS if result.get(name)]
        counts.update(bad)
        if bad:
            failures.append(result)
            if report:
                print(json.dumps(result), flush=True)
    worker.stop()
    row = {"campaign": "inputs", "runs": runs} | {name: counts[name] for name in FAULTS}
    return row | {"seed": seed, "codes": dict(codes), "examples": failures}


@functools.cache
def good_hashes() -> frozenset[str]:
    """The hashes of the weights that archives hold before they are changed."""
    from mixmix.runtime.storage import sha256_of_tensors

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        command = _show(folder, "m.pt2", networks.program())
        exported = call(command, folder).sha256
    return frozenset({exported, sha256_of_tensors(networks.network().state_dict())})


def main() -> int:
    """Run the campaign that the command line asks for."""
    options = arguments(__doc__, runs=5000)
    row = campaign(options.runs, options.seed, report=True)
    tally = Tally("inputs", options.seed, options.runs, **{name: row[name] for name in FAULTS})
    for example in row["examples"]:
        for kind in (name for name in FAULTS if example.get(name)):
            tally.examples.setdefault(kind, json.dumps(example)[:500])
    return finish("Does every damaged or hostile input end well?", [tally], options.out)


if __name__ == "__main__":
    sys.exit(main())
