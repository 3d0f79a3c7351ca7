"""Attacks by specs, runs, manifests, images, pages and the terminal."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import torch

from attacks.attack import Commands, attack
from attacks.networks import onnx_model, program, write_spec

_ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202e[red]x[/red]"


@attack("spec")
def spec_nested(folder: Path, code: str) -> Commands:
    """JSON nested 100,000 levels deep."""
    (folder / "s.json").write_text("[" * 100_000)
    return [["zoo", "show", "s.json"]]


@attack("spec")
def spec_nested_toml(folder: Path, code: str) -> Commands:
    """TOML nested 100,000 levels deep."""
    (folder / "s.toml").write_text("x = " + "[" * 100_000)
    (folder / "run.toml").write_text("x = " + "{a = " * 100_000)
    return [["zoo", "show", "s.toml"], ["run", "run.toml"]]


@attack("spec")
def spec_types(folder: Path, code: str) -> Commands:
    """Fields of wrong types and of absurd sizes."""
    bad: list[dict[str, Any]] = [
        {"name": 3},
        {"name": [1]},
        {"source": {"a": 1}},
        {"input_shape": []},
        {"input_shape": [2**40, 1, 1]},
        {"input_shape": [3, -8, 8]},
        {"mean": "x"},
        {"mean": 10**400},
        {"std": [None] * 3},
        {"std": [0.0] * 3},
        {"num_classes": True},
        {"num_classes": 10**30},
        {"classes": 5},
        {"classes": [1, 2, 3, 4]},
        {"weights": 3},
        {"weights": "\0"},
        {"label_map": {"a": 1}},
        {"sha256": 5},
        {"top1": "a"},
        {code: 1},
    ]
    (folder / "m.onnx").write_bytes(onnx_model().SerializeToString())
    commands = []
    for index, fields in enumerate(bad):
        write_spec(folder / f"{index}.json", **({"source": "m.onnx"} | fields))
        commands.append(["zoo", "show", f"{index}.json"])
    return commands


@attack("spec")
def images_larger_than_the_file_takes(folder: Path, code: str) -> Commands:
    """A size of images for which a small network needs gigabytes."""
    (folder / "m.onnx").write_bytes(onnx_model().SerializeToString())
    (folder / "m.pt2").write_bytes(program())
    commands = []
    for name in ("m.onnx", "m.pt2"):
        write_spec(folder / f"{name}.json", source=name, input_shape=[3, 6000, 6000])
        commands.append(["zoo", "show", f"{name}.json"])
    return commands


@attack("table")
def absurd_cells(folder: Path, code: str) -> Commands:
    """Labels of thousands of digits, and names and cells of any length."""
    (folder / "m.onnx").write_bytes(onnx_model().SerializeToString())
    write_spec(folder / "s.json", source="m.onnx")
    (folder / "a.png").write_bytes(_png(8, 8))
    rows = (
        "a.png," + "9" * 400,
        "a.png,-" + "9" * 5000,
        "x" * 5000 + ",0",
        'a.png,"' + "x" * 2**18,
    )
    commands = []
    for index, row in enumerate(rows):
        (folder / f"{index}.csv").write_text(f"path,label\n{row}\n")
        commands.append(["evaluate", "s.json", "--data", f"{index}.csv"])
    return commands


@attack("spec")
def yaml_tags(folder: Path, code: str) -> Commands:
    """YAML with tags that call functions; specs are no YAML."""
    (folder / "s.yaml").write_text(f"!!python/object/apply:eval [{code!r}]")
    (folder / "s.toml").write_text(f"!!python/object/apply:eval [{code!r}]")
    return [["zoo", "show", "s.yaml"], ["zoo", "show", "s.toml"], ["run", "s.yaml"]]


@attack("hf")
def remote_code(folder: Path, code: str) -> Commands:
    """A repository with code of its own."""
    (folder / "repo").mkdir()
    (folder / "repo" / "evil.py").write_text(code)
    config = {
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M"},
        "model_type": "resnet",
        "id2label": {"0": "a", "1": "b"},
    }
    (folder / "repo" / "config.json").write_text(json.dumps(config))
    return [["zoo", "show", "hf:repo"]]


@attack("hf")
def pickled_repository(folder: Path, code: str) -> Commands:
    """A repository with pickled weights alone."""
    (folder / "repo").mkdir()
    config = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": [code]}
    (folder / "repo" / "config.json").write_text(json.dumps(config))
    (folder / "repo" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(Vtouch MARKER\ntR.")
    return [["zoo", "show", "hf:repo"]]


@attack("terminal")
def escapes_in_errors(folder: Path, code: str) -> Commands:
    """Escape sequences in a name, in an error."""
    write_spec(folder / "s.json", name=_ESCAPES, num_classes=-1)
    return [["zoo", "show", "s.json"], ["zoo", "show", f"{_ESCAPES}.onnx"]]


@attack("terminal", loads=True)
def escapes_in_tables(folder: Path, code: str) -> Commands:
    """Escape sequences and markup in names, in a table."""
    (folder / "m.onnx").write_bytes(onnx_model().SerializeToString())
    names = {"name": _ESCAPES, "classes": [_ESCAPES, "b", "c", "d"], "license": _ESCAPES}
    write_spec(folder / "s.json", source="m.onnx", **names)
    return [["zoo", "show", "s.json"], ["zoo", "show", "s.json", "--json"]]


def _images(folder: Path, **manifest: Any) -> None:
    from mixmix import ImageSet

    images = ImageSet(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), torch.eye(2), {})
    images.save(folder / "images")
    path = folder / "images" / "manifest.json"
    content = json.loads(path.read_text()) | manifest
    del content["content_sha256"]  # which only finds damage
    path.write_text(json.dumps(content))


@attack("manifest")
def shard_in_another_folder(folder: Path, code: str) -> Commands:
    """A shard in another folder."""
    entry = {"file": "../../../../etc/passwd", "sha256": "0" * 64}
    _images(folder, shards=[entry])
    return [["export", "images", "--out", "png"]]


@attack("manifest", loads=True)
def class_in_another_folder(folder: Path, code: str) -> Commands:
    """A class whose name is a path."""
    _images(folder, classes=["../../escaped", "/tmp/mixmix-escaped"])
    return [["export", "images", "--out", "png"]]


@attack("manifest")
def manifest_types(folder: Path, code: str) -> Commands:
    """Fields of wrong types."""
    _images(folder)
    path = folder / "images" / "manifest.json"
    good, commands = json.loads(path.read_text()), []
    for index, bad in enumerate(
        (
            *({"models": 3}, {"models": [3]}, {"models": [{"name": 3}]}, {"classes": 3}),
            *({"classes": [{}]}, {"shards": {}}, {"settings": [1]}, {"versions": 3}),
            {"shards": [good["shards"][0] | {"num_images": "x"}]},
        )
    ):
        (folder / f"i{index}").symlink_to(folder / "images")
        other = folder / f"d{index}"
        other.mkdir()
        (other / "manifest.json").write_text(json.dumps(good | bad))
        commands.append(["export", f"d{index}", "--out", "png"])
    return commands


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(3 * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _evaluate(folder: Path, content: bytes) -> Commands:
    (folder / "m.onnx").write_bytes(onnx_model().SerializeToString())
    write_spec(folder / "s.json", source="m.onnx")
    for name in "abcd":
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / "x.png").write_bytes(content)
    return [["evaluate", "s.json", "--data", "data"]]


@attack("image")
def image_of_gigapixels(folder: Path, code: str) -> Commands:
    """A small PNG file of four gigapixels."""
    return _evaluate(folder, _png(65535, 65535))


@attack("image")
def image_just_below_the_limit(folder: Path, code: str) -> Commands:
    """A PNG file of 120 megapixels, of which Pillow only warns."""
    return _evaluate(folder, _png(12000, 10000))


@attack("image")
def image_of_postscript(folder: Path, code: str) -> Commands:
    """PostScript, which Pillow hands to another program, with the suffix of PNG."""
    return _evaluate(folder, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")


@attack("page", loads=True)
def markup_in_pages(folder: Path, code: str) -> Commands:
    """Names with markup on pages and in notebooks."""
    from mixmix._display import html_table
    from mixmix.data.image_set import ImageSet

    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    images = ImageSet(
        torch.zeros(1, 3, 8, 8), torch.zeros(1).long(), torch.ones(1, 1), {"origin": hostile}
    )
    for page in (images._repr_html_(), html_table([{hostile: hostile}], caption=hostile)):
        if "<script" in page or "<img src=x" in page:
            exec(code)
    return []


@attack("options")
def options_of_wrong_types(folder: Path, code: str) -> Commands:
    """Options of wrong types and sizes."""
    return [
        ["synthesize", "--zoo", "bundled:vgg", "--out", "x", "-n", "-3"],
        ["synthesize", "--zoo", "bundled:vgg", "--out", "x", "--batch-size", "1e9"],
        ["synthesize", "--zoo", "bundled:vgg", "--out", "x", "--seed", "a"],
        ["synthesize", "--zoo", "", "--out", "x"],
        ["evaluate", "bundled:vgg", "--device", "\x1b[2J"],
        ["quantize", "-m", "bundled:vgg", "--data", "absent", "--bits", "W0A0", "--out", "x.onnx"],
    ]
