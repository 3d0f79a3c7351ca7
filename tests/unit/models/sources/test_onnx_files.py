"""ONNX files: networks again, whichever exporter wrote them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import INPUT_SHAPE, tiny_network, tiny_spec
from torch import nn

from mixmix import Quantize, Zoo, compress, export, load, recipe, synthesize
from mixmix.compress.method import Compressed
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.errors import DataError, InputError
from mixmix.graph.capture import capture
from mixmix.models import build_model, load_spec

pytest.importorskip("onnx2torch", reason="onnx2torch is not installed")


def write(path: Path, model: nn.Module, *, exporter: str) -> Path:
    """Write an ONNX file as a user would."""
    example = torch.zeros(1 if exporter == "one-image" else 2, *INPUT_SHAPE)
    how: dict[str, Any] = {
        "dynamo": {
            "dynamo": True,
            "external_data": False,
            "verbose": False,
            "dynamic_shapes": ({0: torch.export.Dim("batch", min=1)},),
        },
        "one-image": {"dynamo": False},
        "with-batch-norm": {
            "dynamo": False,
            "training": torch.onnx.TrainingMode.PRESERVE,
            "do_constant_folding": False,
            "input_names": ["x"],
            "dynamic_axes": {"x": {0: "batch"}},
        },
    }[exporter]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about themselves
        torch.onnx.export(model, (example,), str(path), **how)
    return path


def spec_file(path: Path, source: Path, **fields: object) -> Path:
    mean = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    path.write_text(json.dumps({"source": source.name, **mean, **fields}))
    return path


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("depthwise", "dynamo"),
        ("concat", "one-image"),
        ("residual", "with-batch-norm"),
        ("depthwise", "with-batch-norm"),
    ],
)
def test_same_logits(name: str, exporter: str, tmp_path: Path) -> None:
    model = tiny_network(name)
    path = write(tmp_path / "net.onnx", model, exporter=exporter)
    teacher = load(spec_file(tmp_path / "x.json", path))
    assert (teacher.spec.name, teacher.spec.num_classes) == ("x", 4)
    assert teacher.spec.input_shape == INPUT_SHAPE
    batch_norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    # The other exporters fold them.
    assert len(teacher.batch_norms) == (batch_norms if exporter == "with-batch-norm" else 0)
    inputs = torch.randn(5, *INPUT_SHAPE)
    torch.testing.assert_close(teacher.module(inputs), model(inputs), rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())


@pytest.mark.parametrize("exporter", ["dynamo", "one-image"])
def test_a_softmax_at_the_end_is_left_out(exporter: str, tmp_path: Path) -> None:
    model = tiny_network("plain")
    path = write(
        tmp_path / "net.onnx", nn.Sequential(model, nn.Softmax(1)).eval(), exporter=exporter
    )
    teacher = load(spec_file(tmp_path / "x.json", path))
    inputs = torch.randn(5, *INPUT_SHAPE)
    torch.testing.assert_close(teacher.module(inputs), model(inputs), rtol=1e-4, atol=1e-5)


def test_zoo_synthesizes_and_quantizes_it(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", tiny_network("residual"), exporter="one-image")
    member = (tiny_network("plain"), tiny_spec("plain"))
    zoo = Zoo.load([spec_file(tmp_path / "x.json", path, label_set="tiny"), member])
    data = synthesize(zoo, recipe("mixmix", num_images=8, batch_size=8, iterations=2), seed=0)
    method = Quantize("W8A8", reconstruction=ReconstructionSettings(iterations=2))
    compressed = compress(zoo[0], data, method, seed=0)
    assert all(record.weight_bits == 8 for record in compressed.records if not record.reason)
    inputs = torch.randn(4, *INPUT_SHAPE)
    expected = zoo[0].module(inputs)
    assert float((compressed.module(inputs) - expected).norm() / expected.norm()) < 0.2


def test_files_of_mixmix_say_what_they_are(tmp_path: Path) -> None:
    spec = tiny_spec("plain")
    export(Compressed(tiny_network("plain"), spec), tmp_path / "net.onnx")
    teacher = load(tmp_path / "net.onnx")
    assert (teacher.spec.name, teacher.spec.label_set) == ("plain", "tiny")
    assert (teacher.spec.mean, teacher.spec.std) == (spec.mean, spec.std)
    inputs = torch.randn(4, *INPUT_SHAPE)
    expected = tiny_network("plain")(inputs)
    torch.testing.assert_close(teacher.module(inputs), expected, rtol=1e-4, atol=1e-5)


def test_normalization_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", tiny_network("plain"), exporter="one-image")
    with pytest.raises(InputError, match="net.onnx does not specify its mean, std; add .* --mean"):
        load_spec(path)


def test_fresh_or_other_weights_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", tiny_network("plain"), exporter="one-image")
    with pytest.raises(InputError, match="fresh weights need an architecture"):
        build_model(load_spec(spec_file(tmp_path / "x.json", path)))
    with pytest.raises(InputError, match="contains its own weights; leave out"):
        load_spec(spec_file(tmp_path / "y.json", path, weights="w.safetensors"))


def test_operations_newer_than_the_converter(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    batch = ["batch", *INPUT_SHAPE]
    to = helper.make_tensor("value", TensorProto.INT64, (2,), [-1, 6])
    graph = helper.make_graph(
        [
            helper.make_node("Split", ["x"], ["r", "g", "b"], axis=1, num_outputs=3),
            helper.make_node("Gelu", ["g"], ["gelu"], approximate="none"),
            helper.make_node("Gelu", ["r"], ["tanh"], approximate="tanh"),
            helper.make_node("Concat", ["b", "gelu", "tanh"], ["both"], axis=1),
            helper.make_node("ReduceMean", ["both", "axes"], ["mean"], keepdims=1),
            helper.make_node("Identity", ["axes"], ["again"]),
            helper.make_node("ReduceMax", ["both", "again"], ["max"], keepdims=1),
            helper.make_node("Concat", ["mean", "max"], ["all"], axis=1),
            helper.make_node("Constant", [], ["to"], value=to),
            helper.make_node("Reshape", ["all", "to"], ["y"], allowzero=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, batch)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor("axes", TensorProto.INT64, (2,), [2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx")
    network = load(spec_file(tmp_path / "x.json", tmp_path / "net.onnx")).module
    inputs = torch.randn(5, *INPUT_SHAPE)
    gelus = [nn.functional.gelu(inputs[:, 1]), nn.functional.gelu(inputs[:, 0], approximate="tanh")]
    both = torch.stack([inputs[:, 2], *gelus], 1)
    expected = torch.cat([both.mean((2, 3)), both.amax((2, 3))], 1)
    torch.testing.assert_close(network(inputs), expected)
    capture(network, inputs)


def test_operation_that_cannot_be_converted(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    shape = ["batch", *INPUT_SHAPE]
    graph = helper.make_graph(
        [
            helper.make_node("Det", ["x"], ["d"]),
            helper.make_node("Flatten", ["d"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(InputError, match="cannot be converted to PyTorch: .*Det"):
        Zoo.load([spec_file(tmp_path / "x.json", tmp_path / "net.onnx")])


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(200)])
def test_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(DataError, match="net.onnx is no valid ONNX model"):
        load_spec(tmp_path / "net.onnx")


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ONNX file at"):
        load_spec(tmp_path / "absent.onnx")


class Tokens(nn.Module):
    """Linear layers on tokens, with and without bias, which ONNX writes as plain products."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.mix = nn.Linear(8, 12, bias=False)
        self.back = nn.Linear(12, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.back(torch.relu(self.mix(tokens)))
        logits: torch.Tensor = self.head(tokens.mean(1))
        return logits


def test_products_with_constant_matrices_are_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tokens().eval()
    path = write(tmp_path / "tokens.onnx", model, exporter="dynamo")
    values = {"mean": [0.0] * 3, "std": [1.0] * 3}
    teacher = load(spec_file(tmp_path / "tokens.json", path, **values))
    images = torch.rand(3, *INPUT_SHAPE)
    torch.testing.assert_close(teacher(images), model(images), rtol=1e-4, atol=1e-5)
    layers = [m for m in capture(teacher.module, images).modules() if isinstance(m, nn.Linear)]
    assert sorted(layer.weight.shape for layer in layers) == [(4, 8), (8, 12), (12, 8)]
    assert sorted(layer.bias is None for layer in layers) == [False, False, True]


class Attention(nn.Module):
    """Heads, a class token and positions: sizes that exporters compute while the graph runs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 17, 8))
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        x = x.flatten(2).transpose(1, 2)
        count, _, width = x.shape
        x = torch.cat([self.token.expand(count, -1, -1), x], 1) + self.positions
        q, k, v = self.qkv(x).reshape(count, -1, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(count, -1, width)
        logits: torch.Tensor = self.head(x[:, 0])
        return logits


@pytest.mark.parametrize("exporter", ["dynamo", "one-image", "with-batch-norm"])
def test_transformers_are_captured(exporter: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Attention().eval()
    path = write(tmp_path / "net.onnx", model, exporter=exporter)
    network = load(spec_file(tmp_path / "x.json", path)).module
    inputs = torch.randn(5, *INPUT_SHAPE)
    torch.testing.assert_close(network(inputs), model(inputs), rtol=1e-4, atol=1e-5)
    captured = capture(network, inputs[:2])
    torch.testing.assert_close(captured(inputs), model(inputs), rtol=1e-4, atol=1e-5)
    assert sum(isinstance(each, nn.Linear) for each in captured.modules()) == 2


class Views(nn.Module):
    """Sizes of every kind: cut out, picked, split, and halves of the batch's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = x.shape
        left, right = x.split([2, width - 2], 3)
        x = torch.cat([left.mean(3), right.mean(3)], 1).reshape(count * 2, channels, height)
        x = x[:, :, : height // 2].unsqueeze(0).squeeze(0)
        x = x.reshape(count, 2, -1)[:, -1]
        return x[:, :4] / width**0.5


@pytest.mark.parametrize("exporter", ["dynamo", "with-batch-norm"])
def test_computed_sizes_are_settled(exporter: str, tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", Views().eval(), exporter=exporter)
    network = load(spec_file(tmp_path / "x.json", path, num_classes=4)).module
    inputs = torch.randn(5, *INPUT_SHAPE)
    torch.testing.assert_close(capture(network, inputs[:2])(inputs), Views()(inputs))


def graph_of(*nodes: Any, weights: Sequence[Any] = (), shape: Sequence[Any] = INPUT_SHAPE) -> Any:
    """A graph from ``x`` to ``y`` (N, 4)."""
    from onnx import TensorProto, helper

    return helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        list(weights),
    )


def tail(before: str, *, last: str = "y") -> list[Any]:
    from onnx import helper

    return [
        helper.make_node("Conv", [before, "w"], ["c"], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], [last]),
    ]


def weight(dtype: Any = "float32") -> Any:
    import numpy as np
    from onnx import numpy_helper

    values = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(dtype)
    return numpy_helper.from_array(values, "w")


def saved(path: Path, graph: Any, opset: int = 17) -> Path:
    import onnx
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path)
    return path


def agrees(path: Path, spec: Path, images: torch.Tensor | None = None) -> nn.Module:
    import onnxruntime

    network = load(spec).module
    images = torch.randn(3, *INPUT_SHAPE) if images is None else images
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": images.numpy()})
    torch.testing.assert_close(network(images), torch.from_numpy(expected), rtol=1e-3, atol=1e-3)
    return network


def test_names_of_the_file_never_become_source(tmp_path: Path) -> None:
    nodes = tail("x")
    for node in nodes:
        node.name = f'a"), print("{node.op_type}"), ("'
    path = saved(tmp_path / "net.onnx", graph_of(*nodes, weights=[weight()]))
    network = agrees(path, spec_file(tmp_path / "x.json", path))
    assert "print" not in network.code  # type: ignore[operator]
    assert [name for name, _ in network.named_children()][-1].rpartition("_")[0] == "flatten"


def test_channels_last(tmp_path: Path) -> None:
    from onnx import helper

    transpose = helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])
    channels, height, width = INPUT_SHAPE
    graph = graph_of(transpose, *tail("t"), weights=[weight()], shape=(height, width, channels))
    path = saved(tmp_path / "net.onnx", graph)
    model = load(spec_file(tmp_path / "x.json", path))
    assert model.spec.input_shape == INPUT_SHAPE
    assert model.module(torch.randn(2, *INPUT_SHAPE)).shape == (2, 4)


@pytest.mark.parametrize("opset", [9, 13, 17, 19, 22])
def test_opsets_and_softmax_before_an_identity(opset: int, tmp_path: Path) -> None:
    from onnx import helper

    nodes = [
        *tail("x", last="logits"),
        helper.make_node("Softmax", ["logits"], ["soft"], axis=1),
        helper.make_node("Identity", ["soft"], ["y"]),
    ]
    path = saved(tmp_path / "net.onnx", graph_of(*nodes, weights=[weight()]), opset)
    network = load(spec_file(tmp_path / "x.json", path)).module
    assert not torch.allclose(network(torch.randn(3, *INPUT_SHAPE)).sum(1), torch.ones(3))


def test_half_precision(tmp_path: Path) -> None:
    from onnx import TensorProto

    graph = graph_of(*tail("x"), weights=[weight("float16")])
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    path = saved(tmp_path / "net.onnx", graph)
    assert load(spec_file(tmp_path / "x.json", path)).module(
        torch.randn(2, *INPUT_SHAPE)
    ).dtype == (torch.float32)


def test_resize_clip_and_empty_inputs(tmp_path: Path) -> None:
    import numpy as np
    from onnx import helper, numpy_helper

    constants = [
        numpy_helper.from_array(np.array([], np.float32), "roi"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.array(-0.5, np.float32), "low"),
    ]
    how = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    nodes = [
        helper.make_node("Resize", ["x", "roi", "scales"], ["r"], **how),
        helper.make_node("Clip", ["r", "low"], ["k"]),
        helper.make_node("Sub", ["k", "low"], ["s"]),
        helper.make_node("Mul", ["s", "low"], ["m"]),
        *tail("m"),
    ]
    path = saved(tmp_path / "net.onnx", graph_of(*nodes, weights=[weight(), *constants]))
    agrees(path, spec_file(tmp_path / "x.json", path))


def test_quantized_files_say_so(tmp_path: Path) -> None:
    import numpy as np
    from onnx import helper, numpy_helper

    constants = [
        numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.uint8), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        *tail("d"),
    ]
    path = saved(tmp_path / "net.onnx", graph_of(*nodes, weights=[weight(), *constants]))
    with pytest.raises(InputError, match="is quantized .QuantizeLinear., and only float networks"):
        load_spec(path)


def test_external_data_beside_the_file(tmp_path: Path) -> None:
    import onnx

    path = saved(tmp_path / "net.onnx", graph_of(*tail("x"), weights=[weight()]))
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    agrees(path, spec_file(tmp_path / "x.json", path))
    (tmp_path / "w.bin").unlink()
    with pytest.raises(DataError, match="which is no regular file beside it"):
        load_spec(path)
