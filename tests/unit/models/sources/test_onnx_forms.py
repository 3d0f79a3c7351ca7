"""Forms of ONNX files that exporters other than PyTorch's write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixmix import Quantize, compress, export, load
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.errors import DataError, InputError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx2torch", reason="onnx2torch is not installed")

CHANNELS, SIZE = 4, 10


def constant(name: str, values: Any) -> Any:
    array = np.asarray(values)
    return onnx.numpy_helper.from_array(
        array.astype(np.float32) if array.dtype == np.float64 else array, name
    )


def random(name: str, *shape: int) -> Any:
    return constant(name, np.random.default_rng(len(name)).normal(size=shape) * 0.4)


def written(
    path: Path,
    nodes: list[Any],
    constants: list[Any],
    *,
    opset: int = 13,
    images: tuple[Any, ...] = ("N", 3, SIZE, SIZE),
) -> Path:
    """A file whose nodes go from ``x`` through ``w`` (4, 3, 3, 3) and ``h`` (5, 4) to ``y``."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, images)],
        [helper.make_tensor_value_info("y", kind, (images[0], 5))],
        [random("w", CHANNELS, 3, 3, 3), random("h", 5, CHANNELS), random("b", 5), *constants],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    """A node; ``-`` is an absent input."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return onnx.helper.make_node(kind, names, output.split(), **attributes)


FIRST = ("Conv", "x w", "c")
POOL, FLAT = ("GlobalAveragePool", "z", "p"), ("Flatten", "p", "q")


def around(*middle: Any, last: str = "y") -> list[Any]:
    """A convolution, the nodes from ``c`` to ``z``, and a linear layer."""
    return [
        node(*FIRST),
        *middle,
        node(*POOL),
        node(*FLAT),
        node("Gemm", "q h b", last, transB=1),
    ]


def expected(path: Path, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": images.numpy()})[0])


SAME = {"kernel_shape": [3, 3], "strides": [2, 2]}
NEAREST = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}
MORE = random("more", CHANNELS, CHANNELS, 3, 3)
FORMS: dict[str, tuple[list[Any], list[Any], int]] = {
    "same-upper": ([("Conv", "c more", "z", {**SAME, "auto_pad": "SAME_UPPER"})], [MORE], 13),
    "same-lower": ([("Conv", "c more", "z", {**SAME, "auto_pad": "SAME_LOWER"})], [MORE], 13),
    "same-pool": ([("MaxPool", "c", "z", {**SAME, "auto_pad": "SAME_UPPER"})], [], 13),
    "padded-axes": (
        [("Pad", "c pads - axes", "z", {})],
        [constant("pads", [1, 0, 0, 2]), constant("axes", [2, 3])],
        18,
    ),
    "padded-value": (
        [("Pad", "c pads value", "z", {})],
        [constant("pads", [0, 0, 1, 1, 0, 0, 1, 1]), constant("value", np.float32(-1.5))],
        13,
    ),
    "resized-scales": (
        [("Resize", "c - scales", "z", NEAREST)],
        [constant("scales", [1.0, 1.0, 2.0, 2.0])],
        13,
    ),
    "resized-sizes": (
        [("Resize", "c - - sizes", "z", {"mode": "linear"})],
        [constant("sizes", [1, CHANNELS, 11, 11])],
        13,
    ),
    "upsampled-opset-9": (
        [("Upsample", "c scales", "z", {"mode": "nearest"})],
        [constant("scales", [1.0, 1.0, 2.0, 2.0])],
        9,
    ),
    "sliced-opset-9": (
        [("Slice", "c", "z", {"axes": [2, 3], "starts": [1, 0], "ends": [99, -1]})],
        [],
        9,
    ),
    "dropout-opset-9": ([("Dropout", "c", "z", {"ratio": 0.5})], [], 9),
    "batch-norm-opset-8": (
        [("BatchNormalization", "c m m m v", "z", {"epsilon": 0.01})],
        [random("m", CHANNELS), constant("v", [0.5, 1.0, 2.0, 3.0])],
        8,
    ),
    "flatten-opset-7": ([("Relu", "c", "z", {})], [], 7),
    "maximum-alone": ([("Clip", "c - top", "z", {})], [constant("top", np.float32(0.3))], 13),
    "mish": ([("Mish", "c", "z", {})], [], 18),
}


@pytest.mark.parametrize("form", FORMS)
def test_operations_of_other_exporters(form: str, tmp_path: Path) -> None:
    middle, constants, opset = FORMS[form]
    nodes = around(*(node(kind, given, to, **how) for kind, given, to, how in middle))
    batch = 1 if form == "resized-sizes" else "N"
    path = written(
        tmp_path / "net.onnx", nodes, constants, opset=opset, images=(batch, 3, SIZE, SIZE)
    )
    images = torch.randn(1, 3, SIZE, SIZE)
    found = load(path, mean=0.5, std=0.25).module(images)
    torch.testing.assert_close(found, expected(path, images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["resized-scales", "padded-value", "same-upper"])
def test_they_are_quantized_and_exported(form: str, tmp_path: Path) -> None:
    middle, constants, opset = FORMS[form]
    nodes = around(*(node(kind, given, to, **how) for kind, given, to, how in middle))
    model = load(written(tmp_path / "net.onnx", nodes, constants, opset=opset), mean=0.5, std=0.25)
    few = ReconstructionSettings(iterations=2)
    images = torch.rand(32, *model.spec.input_shape)
    compressed = compress(model, images, Quantize("W8A8", reconstruction=few))
    assert export(compressed, tmp_path / "small.onnx").agreement == 100.0


@pytest.mark.parametrize("before", [["Sub"], ["Mul", "Sub"], ["Cast"]])
def test_channels_last_after_a_normalization(before: list[str], tmp_path: Path) -> None:
    names = ["x", *(f"n{index}" for index in range(len(before)))]
    nodes = [
        node("Cast", given, to, to=1) if kind == "Cast" else node(kind, f"{given} mean", to)
        for kind, given, to in zip(before, names, names[1:], strict=False)
    ]
    nodes += [
        node("Transpose", names[-1], "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w", "z", auto_pad="SAME_UPPER", strides=[2, 2]),
        *around()[1:],
    ]
    path = written(
        tmp_path / "net.onnx", nodes, [random("mean", 3)], images=("N", SIZE, SIZE + 2, 3)
    )
    model = load(path, mean=0.5, std=0.25)
    assert model.spec.input_shape == (3, SIZE, SIZE + 2)
    images = torch.randn(2, *model.spec.input_shape)
    wanted = expected(path, images.permute(0, 2, 3, 1).contiguous())
    torch.testing.assert_close(model.module(images), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("view", ["Flatten", "Squeeze", "Reshape"])
def test_softmax_before_a_view(view: str, tmp_path: Path) -> None:
    inputs = {"Flatten": "s", "Squeeze": "s axes", "Reshape": "s shape"}[view]
    nodes = [
        node(*FIRST),
        node("Conv", "c head", "l"),
        node("GlobalAveragePool", "l", "g"),
        node("Softmax", "g", "s", axis=1),
        node(view, inputs, "y"),
    ]
    constants = [
        random("head", 5, CHANNELS, 1, 1),
        constant("axes", [2, 3]),
        constant("shape", [-1, 5]),
    ]
    path = written(tmp_path / "net.onnx", nodes, constants)
    images = torch.randn(3, 3, SIZE, SIZE)
    found = load(path, mean=0.5, std=0.25).module(images)
    torch.testing.assert_close(found.softmax(1), expected(path, images), rtol=1e-3, atol=1e-4)


def test_a_linear_layer_whose_bias_has_two_axes(tmp_path: Path) -> None:
    nodes = around(node("Relu", "c", "z"))
    nodes[-1].input[2] = "row"
    path = written(tmp_path / "net.onnx", nodes, [random("row", 1, 5)])
    layers = list(load(path, mean=0.5, std=0.25).module.modules())
    assert sum(isinstance(layer, torch.nn.Linear) for layer in layers) == 1


def test_batch_norm_for_training_is_refused(tmp_path: Path) -> None:
    norm = node("BatchNormalization", "c m m m v - - - -", "z")
    del norm.input[5:]
    norm.output.extend(["", "", "", ""])
    weights = [random("m", CHANNELS), constant("v", [0.5, 1.0, 2.0, 3.0])]
    path = written(tmp_path / "net.onnx", around(norm), weights, opset=9)
    with pytest.raises(DataError, match="BatchNormalization for training; export it in eval mode"):
        load(path, mean=0.5, std=0.25)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value: float, tmp_path: Path) -> None:
    nodes = around(node("Add", "c broken", "z"))
    path = written(tmp_path / "net.onnx", nodes, [constant("broken", np.float32(value))])
    with pytest.raises(InputError, match="returns NaN or infinite values; its weights are damaged"):
        load(path, mean=0.5, std=0.25)
