"""Export to ONNX: real integers, the same function, a smaller file, nothing left after failure."""

import copy
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from mixmix.compress.method import AppliedMethod, Compressed
from mixmix.errors import ExportError, InputError
from mixmix.export import Artifact, export
from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer
from mixmix.models.spec import ModelSpec

SHAPE = (3, 12, 12)


def make_spec(num_classes: int = 5, shape: tuple[int, int, int] = SHAPE) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        source="module",
        input_shape=shape,
        mean=(0.5,) * shape[0],
        std=(0.25,) * shape[0],
        num_classes=num_classes,
    )


def quantized(layer: nn.Conv2d | nn.Linear, bits: int) -> QuantizedLayer:
    weight = layer.weight.detach()
    scale = weight.flatten(1).abs().amax(1) / (2 ** (bits - 1) - 1)
    integers = (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round()
    return QuantizedLayer(layer, integers, scale, bits)


def activation(low: float, high: float, bits: int) -> QuantizedActivation:
    scale = (high - low) / (2**bits - 1)
    return QuantizedActivation(torch.tensor(scale), torch.tensor(round(-low / scale)), bits)


class Residual(nn.Module):
    """Plain, depthwise and grouped convolutions, an addition, a concatenation, a linear layer."""

    def __init__(self, weight_bits: int, activation_bits: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        convolution, q = nn.Conv2d, activation_bits
        self.image = activation(-2.013, 1.987, 8)
        self.first = quantized(convolution(3, 16, 3, padding=1), weight_bits)
        self.after_first = activation(0, 1.9319, q)
        self.depthwise = quantized(
            convolution(16, 16, 3, padding=1, groups=16, bias=False), weight_bits
        )
        self.after_depthwise = activation(-1.0371, 0.9523, q)
        self.after_sum = activation(0, 2.4497, q)
        self.grouped = quantized(convolution(16, 16, 3, stride=2, groups=4), weight_bits)
        self.strided = quantized(
            convolution(16, 8, 3, stride=2, dilation=1, padding=0), weight_bits
        )
        self.features = activation(-0.4817, 0.9613, q)
        self.head = quantized(nn.Linear(24, 5), weight_bits)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after_first(torch.relu(self.first(self.image(x))))
        x = self.after_sum(torch.relu(x + self.after_depthwise(self.depthwise(x))))
        x = torch.cat([self.grouped(x), self.strided(x)], dim=1)
        head: Tensor = self.head(self.features(x.mean((2, 3))))
        return head


def chain(weight: Tensor, activation_bits: int = 8) -> nn.Sequential:
    """Two convolutions with the given weights (O, I, 3, 3) in between quantizers, and a head."""
    torch.manual_seed(1)
    out_channels, in_channels = weight.shape[:2]
    layer = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    layer.weight.data = weight
    return nn.Sequential(
        activation(-2, 2, 8),
        quantized(nn.Conv2d(3, in_channels, 3, padding=1), 8),
        nn.ReLU(),
        activation(0, 2, activation_bits),
        quantized(layer, 8),
        nn.ReLU(),
        activation(0, 4, activation_bits),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        quantized(nn.Linear(out_channels, 5), 8),
    )


def proto(artifact: Artifact) -> onnx.ModelProto:
    model = onnx.load(artifact.path)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(
    path: Path, images: Tensor, level: str = "ORT_ENABLE_ALL", optimized: Path | None = None
) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def normalized(num_images: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randn(num_images, *shape, generator=torch.Generator().manual_seed(3))


def weight_types(model: onnx.ModelProto) -> list[int]:
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    return [
        types[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and ranks.get(node.input[0], 0) >= 2
    ]


@pytest.mark.parametrize(
    ("weight_bits", "activation_bits"),
    [(8, 8), (7, 8), (5, 6), (4, 8), (4, 4), (3, 3), (2, 4), (2, 2), (8, 12)],
)
def test_file_computes_what_the_model_computes(
    tmp_path: Path, weight_bits: int, activation_bits: int
) -> None:
    model = Residual(weight_bits, activation_bits).eval()
    artifact = export(Compressed(model, make_spec()), tmp_path / "m.onnx")
    assert artifact.agreement >= 98
    images = normalized(7)
    with torch.no_grad():
        expected = model(images)
    exact = run(artifact.path, images, "ORT_DISABLE_ALL")
    # Only the order of float sums differs, except for the rounding of 8-bit integer kernels.
    assert (exact - expected).abs().max() < 1e-4 * expected.std()
    tolerance = 1e-2 if weight_bits > 4 and activation_bits == 8 else 1e-4
    assert (run(artifact.path, images) - expected).abs().mean() < tolerance * expected.std()
    one = run(artifact.path, images[:1], "ORT_DISABLE_ALL")
    assert one.shape == (1, 5)
    assert (one - expected[:1]).abs().max() < 1e-4 * expected.std()


@pytest.mark.parametrize(
    ("weight_bits", "activation_bits"), [(8, 8), (4, 8), (5, 6), (4, 4), (3, 3), (2, 4), (2, 2)]
)
def test_file_for_speed_is_the_same_function(
    tmp_path: Path, weight_bits: int, activation_bits: int
) -> None:
    model = Residual(weight_bits, activation_bits).eval()
    artifact = export(Compressed(model, make_spec()), tmp_path / "m.onnx", optimize_for="speed")
    assert onnx.TensorProto.INT4 not in weight_types(proto(artifact))
    images = normalized(32)
    with torch.no_grad():
        expected = model(images)
    exact = run(artifact.path, images, "ORT_DISABLE_ALL")
    assert (exact - expected).abs().mean() < 1e-4 * expected.std()


@pytest.mark.parametrize(("bits", "zero_point"), [(2, 0), (2, 1), (3, 0), (3, 5), (4, 0), (4, 9)])
def test_levels_of_two_quantizers_are_those_of_one(
    tmp_path: Path, bits: int, zero_point: int
) -> None:
    quantizer = QuantizedActivation(torch.tensor(0.37), torch.tensor(zero_point), bits)
    layer = nn.Linear(1200, 5)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(quantizer, nn.Flatten(), layer).eval()
    spec = make_spec(shape=(3, 20, 20))
    artifact = export(Compressed(model, spec), tmp_path / "m.onnx", optimize_for="speed")
    # From below the range to above it, and at no tie, which floats decide.
    images = torch.linspace(-7, 7, 8 * 1200).view(8, 3, 20, 20)
    with torch.no_grad():
        expected = model(images)
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        torch.testing.assert_close(
            run(artifact.path, images, level), expected, rtol=1e-3, atol=1e-3
        )


def test_quantizers_and_weights_are_integers(tmp_path: Path) -> None:
    eight = proto(export(Compressed(Residual(8, 8).eval(), make_spec()), tmp_path / "8.onnx"))
    four = proto(export(Compressed(Residual(4, 4).eval(), make_spec()), tmp_path / "4.onnx"))
    # With 8 bits, the quantizer of pooled values is also on either side of what flattens them.
    for model, num_quantizers in ((eight, 5 + 2), (four, 5)):
        counts = Counter(node.op_type for node in model.graph.node)
        assert counts["QuantizeLinear"] == num_quantizers
        assert counts["DequantizeLinear"] == num_quantizers + 5
        assert {node.domain for node in model.graph.node} == {""}
        assert [entry.version for entry in model.opset_import] == [21]
        assert not counts["Cast"]
        floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
        # Scales and biases have one axis that is longer than 1; weights would have more.
        assert all(sum(size > 1 for size in tensor.dims) <= 1 for tensor in floats)
        used = {name for node in model.graph.node for name in node.input}
        assert all(tensor.name in used for tensor in model.graph.initializer)
    assert set(weight_types(eight)) <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    assert weight_types(four) == [onnx.TensorProto.INT4] * 5


def test_int4_weights_hold_the_integers(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), quantized(nn.Linear(3 * 3 * 3, 5), 4)).eval()
    spec = make_spec(shape=(3, 3, 3))  # 135 weights: the last byte is half full
    loaded = proto(export(Compressed(model, spec), tmp_path / "m.onnx"))
    (tensor,) = [t for t in loaded.graph.initializer if t.data_type == onnx.TensorProto.INT4]
    assert len(tensor.raw_data) == 68
    integers = numpy_helper.to_array(tensor).astype(np.int8)
    assert np.array_equal(integers, model[1].integers.numpy())


def test_narrow_ranges_are_clipped(tmp_path: Path) -> None:
    model = nn.Sequential(
        activation(-1, 0.5, 3), nn.Flatten(), quantized(nn.Linear(27, 5), 8)
    ).eval()
    spec = make_spec(shape=(3, 3, 3))
    artifact = export(Compressed(model, spec), tmp_path / "m.onnx")
    counts = Counter(node.op_type for node in proto(artifact).graph.node)
    assert counts["Clip"] == 1
    images = 10 * normalized(8, (3, 3, 3))  # almost all beyond the range
    with torch.no_grad():
        torch.testing.assert_close(run(artifact.path, images), model(images))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_clipped_activations_load(tmp_path: Path, bits: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU6(),
        activation(0, 0.713, bits),
        nn.Flatten(),
        quantized(nn.Linear(800, 5), bits),
    ).eval()
    artifact = export(Compressed(model, make_spec()), tmp_path / "m.onnx")
    images = 4 * normalized(8)
    with torch.no_grad():
        expected = model(images)
    difference = (run(artifact.path, images) - expected).abs().mean()
    assert difference < 1e-3 * expected.std()


class Between(nn.Module):
    """An operation between two quantizers, or between a quantizer and a layer."""

    def __init__(self, operation: str, bits: int, again: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.operation = operation
        self.first = activation(-1.513, 1.487, bits)
        self.second = activation(-0.813, 1.187, bits) if again else nn.Identity()
        self.head = quantized(nn.Linear(self.width(), 5), bits)

    def width(self) -> int:
        shape = self.change(torch.zeros(1, *SHAPE)).shape
        return int(shape[-1] if len(shape) == 3 else shape[1:].numel())

    def change(self, x: Tensor) -> Tensor:
        function = nn.functional
        changed: Tensor = {
            "max_pool": lambda: function.max_pool2d(x, 2),
            "avg_pool": lambda: function.avg_pool2d(x, 2),
            "mean": lambda: x.mean((2, 3)),
            "slice": lambda: x[:, :, ::2, 1:],
            "pad": lambda: function.pad(x, (1, 1, 1, 1)),
            "transpose": lambda: x.transpose(1, 2),
            "tokens": lambda: x.flatten(2),
            "upsample": lambda: function.interpolate(x, scale_factor=2.0),
            "chunk": lambda: torch.cat(x.chunk(3, dim=1)[::-1], dim=1),
            "multiply": lambda: x * x,
            "sigmoid": lambda: x.sigmoid(),
            "relu": lambda: x.relu(),
        }[self.operation]()
        return changed

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.change(self.first(x)))
        x = x if x.ndim == 3 else x.flatten(1)
        logits: Tensor = self.head(x)
        return logits if logits.ndim == 2 else logits.mean(1)


@pytest.mark.parametrize(("bits", "again"), [(4, False), (8, True)])
@pytest.mark.parametrize(
    "operation",
    [
        "max_pool",
        "avg_pool",
        "mean",
        "slice",
        "pad",
        "transpose",
        "tokens",
        "upsample",
        "chunk",
        "multiply",
        "sigmoid",
        "relu",
    ],
)
def test_operations_beside_quantizers(
    tmp_path: Path, operation: str, bits: int, again: bool
) -> None:
    model = Between(operation, bits, again).eval()
    artifact = export(Compressed(model, make_spec()), tmp_path / "m.onnx")
    images = normalized(8)
    with torch.no_grad():
        expected = model(images)
    difference = (run(artifact.path, images) - expected).abs().mean()
    assert difference < (1e-2 if bits == 8 else 1e-3) * expected.std()


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    "kind", ["2 bits", "2 bits behind a pool", "float", "float without bias", "6-bit output"]
)
def test_nothing_but_the_quantizers_rounds(tmp_path: Path, kind: str, relu: bool) -> None:
    """ONNX Runtime quantizes biases and float weights between quantizers unless kept from it."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 3, bias=kind != "float without bias")
    model = nn.Sequential(
        activation(-2.013, 1.987, 8 if kind == "6-bit output" else 3),
        nn.MaxPool2d(3, 1, 1) if kind.endswith("pool") else nn.Identity(),
        layer
        if kind.startswith("float")
        else quantized(layer, 2 if kind.startswith("2 bits") else 5),
        nn.ReLU() if relu else nn.Identity(),
        activation(0 if relu else -0.713, 0.713, 6 if kind == "6-bit output" else 8),
        nn.Flatten(),
        nn.Linear(800, 5),
    ).eval()
    artifact = export(Compressed(model, make_spec()), tmp_path / "m.onnx")
    images = normalized(32)
    with torch.no_grad():
        expected = model(images)
    assert (run(artifact.path, images) - expected).abs().max() < 1e-3 * expected.std()


def test_weights_dominate_the_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3), nn.Conv2d(32, 96, 3), nn.Conv2d(96, 96, 3)]

    def size(bits: int | None) -> int:
        body = [layer if bits is None else quantized(layer, bits) for layer in layers]
        model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        artifact = export(
            Compressed(model, make_spec(96)), tmp_path / f"{bits}.onnx", min_agreement=0
        )
        assert artifact.size_bytes == artifact.path.stat().st_size
        return artifact.size_bytes

    float_size = size(None)
    assert 3.7 < float_size / size(8) < 4.05
    assert 6.8 < float_size / size(4) < 8.05
    assert 12 < float_size / size(2) < 16.05


def test_float_model_exports_plainly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(800, 5)
    ).eval()
    artifact = export(Compressed(model, make_spec()), tmp_path / "m.onnx")
    assert artifact.agreement == 100 and artifact.logit_error < 1e-5
    assert not [n for n in proto(artifact).graph.node if "uantize" in n.op_type]


def test_metadata_and_caller(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Residual(4, 4).train()
    before = copy.deepcopy(model)
    settings = {"method": "Quantize", "scheme": "W4A4"}
    applied = (AppliedMethod(settings),)
    artifact = export(Compressed(model, make_spec(), applied=applied), tmp_path / "m.onnx")
    assert capsys.readouterr() == ("", "")
    assert model.training and str(model) == str(before)
    for (name, tensor), kept in zip(
        model.state_dict().items(), before.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, kept), name
    written = onnx.load(artifact.path)
    properties = {entry.key: entry.value for entry in written.metadata_props}
    assert ModelSpec.from_dict(json.loads(properties["mixmix.spec"])) == make_spec()
    assert json.loads(properties["mixmix.settings"]) == [settings]
    assert properties["mixmix.version"]
    assert str(Path.cwd()).encode() not in artifact.path.read_bytes()
    again = export(
        Compressed(model, make_spec(), applied=applied),
        tmp_path / "again.onnx",
    )
    assert again.sha256 == artifact.sha256


def test_integer_convolutions_do_not_saturate(tmp_path: Path) -> None:
    # All weights at +-127 under activations near 255 is where u8 x s8 kernels without VNNI
    # lose the most.
    weight = torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(0)).sign() / 4
    model = chain(weight).eval()
    artifact = export(Compressed(model, make_spec()), tmp_path / "m.onnx")
    assert artifact.logit_error < 0.01
    optimized = tmp_path / "optimized.onnx"
    run(artifact.path, normalized(2), optimized=optimized)
    counts = Counter(node.op_type for node in onnx.load(optimized).graph.node)
    assert counts["QLinearConv"] == 2, counts
    assert not counts["Conv"] and not counts["FusedConv"]


def test_small_weights_stay_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(27, 5)
    seven = nn.Sequential(nn.Flatten(), quantized(layer, 7)).eval()
    eight = nn.Sequential(nn.Flatten(), quantized(layer, 8)).eval()
    spec = make_spec(shape=(3, 3, 3))
    types = [
        weight_types(proto(export(Compressed(model, spec), tmp_path / "m.onnx")))
        for model in (seven, eight)
    ]
    assert types == [[onnx.TensorProto.INT8], [onnx.TensorProto.UINT8]]


def test_shared_modules_stay_shared(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer, quantizer = quantized(nn.Conv2d(3, 3, 3, padding=1), 8), activation(-3, 3, 8)
    model = nn.Sequential(quantizer, layer, quantizer, layer, nn.Flatten()).eval()
    loaded = proto(export(Compressed(model, make_spec(432)), tmp_path / "m.onnx", min_agreement=0))
    assert len([t for t in loaded.graph.initializer if len(t.dims) == 4]) == 1


def test_disagreement_leaves_no_file(tmp_path: Path) -> None:
    class Unsteady(nn.Module):
        """Computes something else after it was traced."""

        def forward(self, x: Tensor) -> Tensor:
            logits = x.mean((2, 3))
            return logits if torch.compiler.is_compiling() else logits.flip(1)

    path = tmp_path / "m.onnx"
    with pytest.raises(ExportError, match=r"same class on .*%.*relative error"):
        export(Compressed(Unsteady(), make_spec(3)), path)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"an older file")
    with pytest.raises(ExportError):
        export(Compressed(Unsteady(), make_spec(3)), path)
    assert path.read_bytes() == b"an older file"


def test_untranslatable_model(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    with pytest.raises(ExportError, match="tiny cannot be exported to ONNX"):
        export(Compressed(Branching(), make_spec(3)), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"format": "tflite"}, "'tflite'.*'onnx'"),
        ({"probe": torch.rand(8, *SHAPE)}, "8 probe images, expected at least 32"),
        ({"probe": torch.rand(40, 1, 12, 12)}, "1 channels, tiny takes 3"),
    ],
)
def test_wrong_arguments(tmp_path: Path, keywords: dict, message: str) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match=message):
        export(Compressed(model, make_spec(3)), tmp_path / "m.onnx", **keywords)
    assert list(tmp_path.iterdir()) == []


def test_probe_of_another_size_is_resized(tmp_path: Path) -> None:
    probe = torch.rand(32, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    artifact = export(
        Compressed(Residual(8, 8).eval(), make_spec()), tmp_path / "m.onnx", probe=probe
    )
    assert artifact.agreement >= 98
