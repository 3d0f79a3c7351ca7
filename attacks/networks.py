"""Harmless files that attacks change: a tiny network in every format."""

from __future__ import annotations

import functools
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

SHAPE = (3, 8, 8)
SPEC: dict[str, Any] = {
    "name": "tiny",
    "source": "module",
    "input_shape": list(SHAPE),
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "num_classes": 4,
}


def network() -> nn.Module:
    """A convolution, a BatchNorm and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(4, 4)),
    ).eval()


def onnx_model() -> onnx.ModelProto:
    """The same as ONNX, without BatchNorm."""
    weights = np.random.default_rng(0)
    values = {"w": (4, 3, 3, 3), "f": (4, 4)}
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], name="c", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="r"),
        helper.make_node("GlobalAveragePool", ["b"], ["p"], name="p"),
        helper.make_node("Flatten", ["p"], ["q"], name="f"),
        helper.make_node("Gemm", ["q", "f"], ["logits"], name="g", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [
            numpy_helper.from_array(weights.normal(size=shape).astype(np.float32), name)
            for name, shape in values.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@functools.cache
def program() -> bytes:
    """The same as an exported program."""
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(
        network(), (torch.zeros(2, *SHAPE),), dynamic_shapes=({0: batch},), strict=False
    )
    buffer = io.BytesIO()
    torch.export.save(exported, buffer, extra_files={"mixmix.spec": json.dumps(SPEC)})
    return buffer.getvalue()


def rewritten(
    content: bytes,
    change: Callable[[str, bytes], bytes | None],
    added: dict[str, bytes] | None = None,
    *,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """An archive with changed and added entries; None removes one."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", compression) as new,
    ):
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            entry = change(name.partition("/")[2], old.read(name))
            if entry is not None:
                new.writestr(name, entry)
        for name, entry in (added or {}).items():
            new.writestr(f"{root}/{name}", entry)
    return buffer.getvalue()


def in_document(edit: Callable[[Any], object]) -> bytes:
    """The program with a change of its graph document."""

    def change(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        document = json.loads(content)
        edit(document)
        return json.dumps(document).encode()

    return rewritten(program(), change)


def write_spec(path: Path, **fields: Any) -> Path:
    """A spec file."""
    path.write_text(json.dumps(SPEC | fields))
    return path
