"""Single passes over ONNX graphs, on graphs of a few nodes."""

import numpy as np
import onnx_ir as ir
import pytest

from mixmix.export.onnx.biases import fit_biases
from mixmix.export.onnx.float_exactness import keep_floats_exact
from mixmix.export.onnx.integer_kernels import join_quantizers, pool_globally, repeat_quantizers
from mixmix.export.onnx.packing import pack_weights
from mixmix.runtimes.onnx_nodes import constant

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
# Quantizers of 8 bits with steps of 1 / 64 around a layer of int8.
QUANTIZED_LAYER = """
    float scale = {0.015625}, uint8 zero = {0}, int8[2,2] integers = {1, -2, 3, 4},
    float[2] bias = {0.5, -0.5}
"""


def graph(values: str, nodes: str, *, rank: int = 2) -> ir.Graph:
    shape = ",".join(["N", "2", "4", "4"][:rank])
    return ir.from_onnx_text(
        f"{HEAD} g (float[{shape}] x) => (float y) <{values}> {{{nodes}}}"
    ).graph


def op_types(found: ir.Graph) -> list[str]:
    return [node.op_type for node in found]


def test_casts_to_four_bits_are_done_once() -> None:
    packed = graph(
        "int8[2,2] integers = {1, -2, 3, -8}, float scale = {0.5}",
        "narrow = Cast<to = 22>(integers) w = DequantizeLinear(narrow, scale) y = MatMul(x, w)",
    )
    pack_weights(packed)
    assert op_types(packed) == ["DequantizeLinear", "MatMul"]
    value = packed[0].inputs[0]
    assert value is not None and value.const_value is not None
    assert value.const_value.dtype == ir.DataType.INT4 and value.const_value.nbytes == 2
    array = constant(value)
    assert array is not None and array.astype(np.int8).tolist() == [[1, -2], [3, -8]]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("", ["Gemm", "QuantizeLinear"]),
        ("after = Relu(before)", ["Gemm", "QuantizeLinear"]),
        # 255 steps are 3.98.
        ("after = Clip(before, low, high)", ["Gemm", "QuantizeLinear"]),
        ("after = Clip(before, low, low)", ["Gemm", "Max", "Min", "QuantizeLinear"]),
        ("after = Clip(before, low, computed)", ["Gemm", "Max", "Min", "QuantizeLinear"]),
        ("after = Sigmoid(before)", ["Gemm", "Sigmoid", "QuantizeLinear"]),
    ],
)
def test_functions_that_a_quantizer_implies_are_left_out(
    function: str, expected: list[str]
) -> None:
    found = graph(
        f"{QUANTIZED_LAYER}, float low = {{0.0}}, float high = {{6.0}}",
        f"""computed = ReduceMax<keepdims = 0>(x)
            q = QuantizeLinear(x, scale, zero) d = DequantizeLinear(q, scale, zero)
            w = DequantizeLinear(integers, scale)
            before = Gemm(d, w, bias) {function}
            r = QuantizeLinear({"after" if function else "before"}, scale, zero)
            y = DequantizeLinear(r, scale, zero)""",
    )
    keep_floats_exact(found)
    assert op_types(found)[4:] == [*expected, "DequantizeLinear"]


def test_float_layers_are_guarded() -> None:
    found = graph(
        "float scale = {0.5}, uint8 zero = {0}, float[2,2] w = {1, 2, 3, 4}",
        "a = Gemm(x, w) q = QuantizeLinear(a, scale, zero) y = DequantizeLinear(q, scale, zero)",
    )
    keep_floats_exact(found)
    assert op_types(found) == ["Gemm", "Max", "QuantizeLinear", "DequantizeLinear"]


def test_only_means_over_height_and_width_are_pools() -> None:
    for axes, expected in (("2, 3", ["GlobalAveragePool", "Flatten"]), ("1, 2", ["ReduceMean"])):
        found = graph(
            f"int64[2] axes = {{{axes}}}", "y = ReduceMean<keepdims = 0>(x, axes)", rank=4
        )
        pool_globally(found)
        assert op_types(found) == expected
        assert found.outputs[0].name == "y"


def test_quantizers_are_repeated_along_a_chain_and_joined() -> None:
    found = graph(
        "float scale = {0.5}, float other = {0.25}, uint8 zero = {0}",
        """q = QuantizeLinear(x, scale, zero) d = DequantizeLinear(q, scale, zero)
           a = Transpose(d) b = Identity(a) r = QuantizeLinear(b, other, zero)
           y = DequantizeLinear(r, other, zero)""",
    )
    repeat_quantizers(found)
    join_quantizers(found)
    pair = ["QuantizeLinear", "DequantizeLinear"]
    assert op_types(found) == [
        *(*pair, "Transpose", *pair, "Identity", *pair),
        *("LeakyRelu", *pair),
    ]


@pytest.mark.parametrize(
    ("padding", "is_repeated"),
    [
        ("Pad(d, pads)", True),
        ("Pad(d, pads, nothing)", True),
        ("Pad(d, pads, one)", False),
        ("Pad(d, pads, computed)", False),
        ('Pad<mode = "reflect">(d, pads, one)', True),
    ],
)
def test_padding_with_other_values_than_zero_is_not_quantized_again(
    padding: str, is_repeated: bool
) -> None:
    found = graph(
        """float scale = {0.3}, uint8 zero = {0}, int64[4] pads = {0, 1, 0, 1},
           float nothing = {0.0}, float one = {1.0}""",
        f"""computed = ReduceMax<keepdims = 0>(x)
            q = QuantizeLinear(x, scale, zero) d = DequantizeLinear(q, scale, zero)
            p = {padding} y = Neg(p)""",
    )
    repeat_quantizers(found)
    again = ["QuantizeLinear", "DequantizeLinear"] if is_repeated else []
    assert op_types(found)[3:] == ["Pad", *again, "Neg"]


@pytest.mark.parametrize("bias", [0.5, -3.0])
@pytest.mark.parametrize("scale", [1e-10, 7.8e-11])
def test_biases_of_dead_channels_fit_into_32_bits(bias: float, scale: float) -> None:
    found = graph(
        f"""float step = {{0.015625}}, uint8 zero = {{0}}, int8[2,2] integers = {{1, -2, 100, 4}},
        float[2] scales = {{0.01, {scale}}}, int8[2] zeros = {{0, 0}},
        float[2] bias = {{0.5, {bias}}}""",
        """integer = QuantizeLinear(x, step, zero) float = DequantizeLinear(integer, step, zero)
        w = DequantizeLinear<axis = 0>(integers, scales, zeros) y = Gemm<transB = 1>(float, w, bias)
        """,
    )
    fit_biases(found)
    weight = next(node for node in found if node.outputs[0].name == "w")
    integers, scales = (constant(value) for value in weight.inputs[:2])
    assert integers is not None and scales is not None
    assert integers.dtype == np.int8 and integers[0].tolist() == [1, -2]
    assert scales[0] == np.float32(0.01)
    assert abs(bias) / (0.015625 * scales[1]) <= 2**30 * 1.001
    assert np.abs(integers[1] * scales[1] - np.array([100, 4]) * scale).max() <= scales[1]
