"""Sessions of ONNX Runtime: sizes that a file leaves open, and which of the times are taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mixmix.errors import DataError, InputError
from mixmix.runtimes import latency
from mixmix.runtimes.latency import compare_latency_ms
from mixmix.runtimes.onnx_reading import read_onnx
from mixmix.runtimes.session import OnnxSession


def identity(folder: Path, *shape: int | str) -> Path:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", *([v] for v in values)
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "identity.onnx")
    return folder / "identity.onnx"


def test_sizes_that_are_open_are_named(tmp_path: Path) -> None:
    assert OnnxSession(identity(tmp_path, "N", 3, 4, 5)).batch_shape(7) == (7, 3, 4, 5)
    with pytest.raises(InputError, match="leaves the size of its images open"):
        OnnxSession(identity(tmp_path, "N", 3, "H", 5)).batch_shape(7)


@pytest.mark.parametrize("quantile", [0.0, 0.1, 0.5, 1.0])
def test_a_quantile_of_the_times_is_taken(
    quantile: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clock() -> Iterator[float]:
        """Runs that take 1, 2, 3, ... ms."""
        now = 0.0
        for run in range(1, 100):
            yield now
            now += run / 1000
            yield now

    ticks = clock()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(ticks))
    path = identity(tmp_path, "N", 1, 2, 2)
    (found,) = compare_latency_ms([path], repeats=10, rounds=1, quantile=quantile).values()
    assert found == pytest.approx(float(np.quantile(range(1, 11), quantile)))


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ({"first": ["Relu"], "second": ["Relu"]}, ""),
        ({"first": ["second", "second"], "second": ["Relu"]}, ""),
        ({"second": ["Relu"], "first": ["second", "Relu"]}, ""),
        ({"first": ["Relu", "first"]}, "call themselves"),
        ({"first": ["second"], "second": ["first"], "third": ["Relu"]}, "call themselves"),
    ],
)
def test_functions_may_be_several(
    calls: dict[str, list[str]], message: str, tmp_path: Path
) -> None:
    path = identity(tmp_path, "N", 3)
    model = onnx.load(path)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for name, kinds in calls.items():
        values = ["x", *(f"v{index}" for index in range(len(kinds) - 1)), "y"]
        nodes = [
            helper.make_node(kind, [a], [b], domain="own" if kind in calls else "")
            for kind, a, b in zip(kinds, values, values[1:], strict=False)
        ]
        model.functions.append(helper.make_function("own", name, ["x"], ["y"], nodes, opsets))
    model.opset_import.append(opsets[1])
    model.graph.node[0].op_type, model.graph.node[0].domain = "first", "own"
    onnx.save(model, path)
    if not message:
        assert len(read_onnx(path).functions) == len(calls)
        return
    with pytest.raises(DataError, match=message):
        read_onnx(path)


@pytest.mark.parametrize("version", [-1, 0, 999])
def test_opsets_that_nobody_knows_are_named(version: int, tmp_path: Path) -> None:
    path = identity(tmp_path, "N", 3)
    model = onnx.load(path)
    model.opset_import[0].version = version
    onnx.save(model, path)
    with pytest.raises(DataError, match=f"opset {version}, and the installed onnx knows 1 to"):
        read_onnx(path)
