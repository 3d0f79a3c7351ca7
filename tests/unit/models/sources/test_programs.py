"""Exported programs: networks again, of any batch, and nothing but networks."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import INPUT_SHAPE, tiny_network, tiny_spec
from torch import nn

from mixmix import Zoo, evaluate, load
from mixmix.errors import DataError, InputError
from mixmix.models import build_model, load_spec
from mixmix.runtimes.program import read_program

Change = Callable[[str, bytes], bytes]


def program(path: Path, model: nn.Module, *, batch: int | None = None, notes: str = "") -> Path:
    """Write an exported program, of one batch or of any."""
    shapes = None if batch else ({0: torch.export.Dim("batch", min=1)},)
    example = (torch.zeros(batch or 2, *INPUT_SHAPE),)
    exported = torch.export.export(model, example, dynamic_shapes=shapes, strict=False)
    torch.export.save(exported, path, extra_files={"mixmix.spec": notes} if notes else None)
    return path


def spec_file(path: Path, **fields: object) -> Path:
    mean = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    path.write_text(json.dumps({"source": "net.pt2", **mean, **fields}))
    return path


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("name", ["residual", "depthwise", "no-batch-norm"])
def test_same_logits_and_batch_norms(name: str, batch: int | None, tmp_path: Path) -> None:
    model = tiny_network(name)
    program(tmp_path / "net.pt2", model, batch=batch)
    teacher = load(spec_file(tmp_path / "x.json"))
    assert teacher.spec.input_shape == INPUT_SHAPE
    assert teacher.spec.num_classes == 4
    assert len(teacher.batch_norms) == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    inputs = torch.randn(5, *INPUT_SHAPE)
    torch.testing.assert_close(teacher.module(inputs), model(inputs))
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())


def test_normalization_is_asked_for(tmp_path: Path) -> None:
    path = program(tmp_path / "net.pt2", tiny_network("plain"))
    with pytest.raises(InputError, match="net.pt2 does not specify its mean, std; add .* --mean"):
        load_spec(path)


def test_files_of_mixmix_say_what_they_are(tmp_path: Path) -> None:
    notes = json.dumps(tiny_spec("plain").to_dict())
    path = program(tmp_path / "net.pt2", tiny_network("plain"), notes=notes)
    spec = load_spec(path)
    assert (spec.name, spec.label_set, spec.mean) == ("plain", "tiny", tiny_spec("plain").mean)
    assert spec.source == str(path)


class ForOneBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = tiny_network("plain")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x) + x.new_zeros(x.shape[0], 4).view(2, 4)
        return logits


def test_program_of_one_batch_alone_is_refused(tmp_path: Path) -> None:
    program(tmp_path / "net.pt2", ForOneBatch(), batch=2)
    with pytest.raises(InputError, match="does not run on batches of any size"):
        Zoo.load([spec_file(tmp_path / "x.json")])


def test_program_of_training_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Flatten()).train()
    program(tmp_path / "net.pt2", model)
    with pytest.raises(InputError, match="was exported in training mode; export model.eval()"):
        load_spec(tmp_path / "net.pt2")


def test_fresh_or_other_weights_are_refused(tmp_path: Path) -> None:
    program(tmp_path / "net.pt2", tiny_network("plain"))
    with pytest.raises(InputError, match="fresh weights need an architecture"):
        build_model(load_spec(spec_file(tmp_path / "x.json")))
    with pytest.raises(InputError, match="contains its own weights; leave out"):
        load_spec(spec_file(tmp_path / "y.json", weights="w.safetensors"))


class Payload:
    """An object whose unpickling would make a folder."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (self.target,))


def changed(path: Path, change: Change, *, added: dict[str, bytes] | None = None) -> None:
    """Rewrite the entries of an archive."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(entries)).split("/")[0]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name.removeprefix(f"{root}/"), content))
        for name, content in (added or {}).items():
            archive.writestr(f"{root}/{name}", content)


def in_graph(old: bytes, new: bytes) -> Change:
    def change(name: str, content: bytes) -> bytes:
        if not name.startswith("models/"):
            return content
        assert old in content
        return content.replace(old, new)

    return change


def with_pickle(target: str) -> Change:
    buffer = io.BytesIO()
    torch.save(((torch.zeros(1), Payload(target)), {}), buffer)
    return lambda name, content: (
        buffer.getvalue() if name.startswith("data/sample_inputs/") else content
    )


class TestSafety:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return program(tmp_path / "net.pt2", tiny_network("plain"))

    def refused(self, path: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            load_spec(path)

    def test_own_rewriting_is_harmless(self, path: Path) -> None:
        changed(path, lambda name, content: content)
        read_program(path)

    def test_pickled_objects(self, path: Path, tmp_path: Path) -> None:
        changed(path, with_pickle(str(tmp_path / "made")))
        self.refused(path, "more than tensors in data/sample_inputs")
        with pytest.raises(DataError, match="more than tensors in data/sample_inputs"):
            evaluate(path, (torch.rand(2, *INPUT_SHAPE), torch.zeros(2, dtype=torch.long)))
        assert not (tmp_path / "made").exists()

    def test_weights_that_ask_for_pickle(self, path: Path) -> None:
        def change(name: str, content: bytes) -> bytes:
            if name.endswith("weights_config.json"):
                return content.replace(b'"use_pickle": false', b'"use_pickle": true')
            return content

        changed(path, change)
        self.refused(path, "contains the pickled object")

    @pytest.mark.parametrize(
        "expression",
        [
            "__import__('os').getpid()",
            "eval('1')",
            "exit(3)",
            "Max('__import__(1)', 2)",
            "Symbol('s0').args",
            "(lambda: 1)()",
            "[x for x in (1,)]",
            "Symbol('a b')",
            "Symbol(",
        ],
    )
    def test_expressions_that_are_code(self, expression: str, path: Path) -> None:
        old = b"Symbol('s"
        with zipfile.ZipFile(path) as archive:
            (name,) = [n for n in archive.namelist() if "/models/" in n]
            graph = archive.read(name)
        start = graph.index(old)
        symbol = graph[start : graph.index(b")", start) + 1]
        changed(path, in_graph(symbol, expression.encode()))
        self.refused(path, "contains the expression")

    @pytest.mark.parametrize(
        "operation",
        ["torch.hub.load", "torch.ops.aten.from_file.default", "_operator.call", "os.system"],
    )
    def test_operations_that_are_no_networks(self, operation: str, path: Path) -> None:
        changed(path, in_graph(b"torch.ops.aten.relu_.default", operation.encode()))
        self.refused(path, f"contains the operation '{operation}'")

    def test_compiled_code(self, path: Path) -> None:
        changed(path, lambda name, content: content, added={"data/aotinductor/m/x.so": b"x"})
        self.refused(path, "x.so, which is neither graph nor tensor")

    @pytest.mark.parametrize(
        ("field", "value", "problem"),
        [
            ("guards_code", ["(print(1), True)[1]"], "the guard"),
            ("guards_code", ["L['x'].__class__"], "the guard"),
            ("source_code", "print(1)", "unknown field 'source_code'"),
            ("graph_module", {"graph": []}, "no field 'signature'"),
        ],
    )
    def test_fields(self, field: str, value: object, problem: str, path: Path) -> None:
        def change(name: str, content: bytes) -> bytes:
            if not name.startswith("models/"):
                return content
            return json.dumps(json.loads(content) | {field: value}).encode()

        changed(path, change)
        self.refused(path, problem)

    @pytest.mark.parametrize(
        "guard", ["(L['x'].size()[0] % 2) == 0", "((1 + L['x'].size()[2]) // 2) != 1"]
    )
    def test_guards_that_pytorch_writes(self, guard: str, path: Path) -> None:
        old = b'"guards_code": []'
        new = f'"guards_code": [{json.dumps(guard)}]'.encode()
        changed(path, in_graph(old, new))
        read_program(path)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b'"relu_"', b'"x y"'),
            (b'"forward_arg_names": ["x"]', b'"forward_arg_names": ["x=print(1)"]'),
            (b'"forward_arg_names": ["input"]', b'"forward_arg_names": ["x\\ny"]'),
        ],
    )
    def test_names(self, old: bytes, new: bytes, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            (name,) = [n for n in archive.namelist() if "/models/" in n]
            if old not in archive.read(name):
                pytest.skip("this network has no such name")
        changed(path, in_graph(old, new))
        self.refused(path, "contains the (name|argument)")

    @pytest.mark.parametrize("content", [b"", b"not a program", bytes(200)])
    def test_damaged(self, content: bytes, path: Path) -> None:
        path.write_bytes(content)
        self.refused(path, "is not a program that torch.export.save")

    def test_truncated(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-100])
        self.refused(path, "is not a program that torch.export.save")

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no exported program at"):
            load_spec(tmp_path / "absent.pt2")
