"""Every operation of the table is recognized however it is called, and its page is up to date."""

from __future__ import annotations

import math
import operator
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mixmix.graph.lift import lift_layers
from mixmix.graph.ops import (
    KINDS,
    Kind,
    bounds_of,
    has_kind,
    is_homogeneous,
    joined_operands,
    kind_of,
    moves,
    narrows,
    onnx_names,
    product_calls,
    zero_padding,
)

IMAGES = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(4, 4, 1, 1, generator=torch.Generator().manual_seed(1))
TOKENS = WEIGHT.flatten(1)

# What every kind is called in a module of a user; each is traced, and exported.
CALLS: dict[str, list[Callable[[Tensor], Any]]] = {
    "relu": [nn.ReLU(), torch.relu, F.relu, lambda x: x.relu()],
    "relu6": [nn.ReLU6(), F.relu6],
    "hardtanh": [nn.Hardtanh(0, 2), lambda x: F.hardtanh(x, 0.0, 2.0)],
    "clamp": [lambda x: torch.clamp(x, 0, 1), lambda x: x.clamp(min=0), lambda x: x.clip(0, 1)],
    "leaky_relu": [nn.LeakyReLU(), F.leaky_relu],
    "prelu": [nn.PReLU(4)],
    "sigmoid": [nn.Sigmoid(), torch.sigmoid, F.sigmoid, lambda x: x.sigmoid()],
    "silu": [nn.SiLU(), F.silu],
    "hardswish": [nn.Hardswish(), F.hardswish],
    "hardsigmoid": [nn.Hardsigmoid(), F.hardsigmoid],
    "gelu": [nn.GELU(), F.gelu],
    "elu": [nn.ELU(), F.elu],
    "mish": [nn.Mish(), F.mish],
    "softplus": [nn.Softplus(), F.softplus],
    "tanh": [nn.Tanh(), torch.tanh, lambda x: x.tanh()],
    "softmax": [nn.Softmax(1), lambda x: F.softmax(x, 1), lambda x: x.softmax(1)],
    "add": [lambda x: x + x, lambda x: torch.add(x, x), lambda x: x.add(x)],
    "mul": [lambda x: x * x, lambda x: torch.mul(x, x), lambda x: x.mul(x)],
    "cat": [lambda x: torch.cat([x, x], 1), lambda x: torch.concat([x, x], 1)],
    "pool_max": [nn.MaxPool2d(2), lambda x: F.max_pool2d(x, 2)],
    "pool_avg": [nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), lambda x: F.avg_pool2d(x, 2)],
    "mean": [lambda x: x.mean((2, 3)), lambda x: torch.mean(x, (2, 3))],
    "identity": [torch.clone, lambda x: x.clone()],
    "dropout": [nn.Dropout(), nn.Dropout2d(), lambda x: F.dropout(x, training=False)],
    "reshape": [nn.Flatten(1), lambda x: torch.flatten(x, 1), lambda x: x.unsqueeze(1)],
    "transpose": [lambda x: x.permute(0, 2, 3, 1), lambda x: torch.transpose(x, 1, 2)],
    "channel_shuffle": [nn.ChannelShuffle(2), lambda x: F.channel_shuffle(x, 2)],
    "slice": [lambda x: x.narrow(1, 0, 2)],
    "split": [lambda x: x.chunk(2, 1)[0], lambda x: torch.split(x, 2, 1)[0]],
    "pad": [nn.ZeroPad2d(1), nn.ConstantPad2d(1, 0.0), lambda x: F.pad(x, (1, 1))],
    "fill": [lambda x: x.masked_fill(x > 0, 1.0), lambda x: torch.where(x > 0, x, -x)],
    "index": [lambda x: x.chunk(2, 1)[0]],
    "conv2d": [nn.Conv2d(4, 4, 1), lambda x: F.conv2d(x, WEIGHT)],
    "linear": [nn.Linear(6, 2), lambda x: F.linear(x.mean((2, 3)), TOKENS)],
    "convolution": [nn.ConvTranspose2d(4, 4, 2), lambda x: F.conv_transpose2d(x, WEIGHT)],
    "matmul": [lambda x: x @ x, lambda x: torch.matmul(x, x), lambda x: x.matmul(x)],
    "attention": [lambda x: F.scaled_dot_product_attention(x, x, x)],
    "batch_norm": [nn.BatchNorm2d(4)],
    "norm": [nn.LayerNorm(6), nn.GroupNorm(2, 4), lambda x: F.layer_norm(x, (6,))],
    "size": [lambda x: x.reshape(x.size(0), -1), lambda x: x.reshape(x.shape[0], -1)],
}
ALL_CALLS = [(name, index) for name, calls in CALLS.items() for index in range(len(calls))]


class Calling(nn.Module):
    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(x)


def found_kinds(graph_module: fx.GraphModule) -> list[str]:
    modules = dict(graph_module.named_modules())
    kinds = (kind_of(node, modules) for node in graph_module.graph.nodes)
    return [kind.name for kind in kinds if kind is not None]


def exported(module: nn.Module) -> fx.GraphModule:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        module.eval(), (IMAGES,), dynamic_shapes=({0: batch},), strict=False
    )
    graph_module = program.module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    return graph_module


def node_of(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A call in a graph of its own, of one tensor and these arguments."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    if isinstance(target, str):
        return graph.call_method(target, (x, *args), kwargs)
    return graph.call_function(target, (x, *args), kwargs)


def module_node(module: nn.Module) -> tuple[fx.Node, dict[str, nn.Module]]:
    graph = fx.Graph()
    return graph.call_module("m", (graph.placeholder("x"),)), {"m": module}


def test_every_kind_is_tried() -> None:
    assert set(CALLS) == set(KINDS)


@pytest.mark.parametrize(("name", "index"), ALL_CALLS)
def test_kind_of_what_is_traced(name: str, index: int) -> None:
    assert name in found_kinds(fx.symbolic_trace(Calling(CALLS[name][index])))


@pytest.mark.parametrize(("name", "index"), ALL_CALLS)
def test_kind_of_what_is_exported(name: str, index: int) -> None:
    graph_module = exported(Calling(CALLS[name][index]))
    # torch.export writes the module as what it inherits from.
    wanted = "hardtanh" if isinstance(CALLS[name][index], nn.ReLU6) else name
    assert wanted in found_kinds(graph_module)
    if KINDS[name].lifted and isinstance(CALLS[name][index], nn.Module):
        assert name in found_kinds(lift_layers(graph_module))


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_kind_of_all_that_the_table_names(kind: Kind) -> None:
    targets = (*kind.functions, *kind.methods, *kind.packets)
    for target in targets:
        assert kind_of(node_of(target)) is kind
    for packet in kind.packets:
        for overload in packet.overloads():
            assert kind_of(node_of(getattr(packet, overload))) is kind
    for name in kind.names:  # no name is wrong
        assert any(name == getattr(each, "__name__", each) for each in targets)
    for each in kind.modules:
        subclass = type("Own", (each,), {})
        node, modules = module_node(subclass.__new__(subclass))
        assert kind_of(node, modules) is kind
        assert kind_of(node) is None


def test_what_is_in_no_line_has_no_kind() -> None:
    for target in (torch.erf, "erf", torch.ops.aten.erf.default):
        node = node_of(target)
        assert kind_of(node) is None
        assert not (moves(node) or narrows(node) or is_homogeneous(node))
        assert bounds_of(node) is None and joined_operands(node, lambda _: True) == []
    assert kind_of(3) is None and not has_kind(None, "relu")


@pytest.mark.parametrize(
    ("node", "bounds"),
    [
        (node_of(F.relu, True), (0, math.inf)),  # inplace is no bound
        (node_of(F.relu_), (0, math.inf)),
        (node_of(torch.ops.aten.relu6_.default), (0, 6)),
        (node_of(F.hardtanh), (-1, 1)),
        (node_of(F.hardtanh, 0.0, max_val=3.0), (0, 3)),
        (node_of(torch.ops.aten.hardtanh.default, 0.0, 6.0), (0, 6)),
        (node_of(torch.ops.aten.hardtanh_.default), (-1, 1)),
        (node_of("clamp", min=0), (0, math.inf)),
        (node_of(torch.clip, None, 2), (-math.inf, 2)),
        (node_of("clamp", fx.Graph().placeholder("low")), None),
        (node_of(torch.sigmoid), None),
    ],
)
def test_bounds(node: fx.Node, bounds: tuple[float, float] | None) -> None:
    assert bounds_of(node) == bounds


@pytest.mark.parametrize(
    ("module", "bounds"),
    [(nn.ReLU(), (0, math.inf)), (nn.ReLU6(), (0, 6)), (nn.Hardtanh(-2, 3), (-2, 3))],
)
def test_bounds_of_modules(module: nn.Module, bounds: tuple[float, float]) -> None:
    assert bounds_of(*module_node(module)) == bounds


def test_a_clamp_from_zero_is_homogeneous_and_others_are_not() -> None:
    assert is_homogeneous(node_of("clamp", 0)) and is_homogeneous(node_of(torch.relu_))
    assert not is_homogeneous(node_of("clamp", 1)) and not is_homogeneous(node_of(F.relu6))


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].homogeneous])
def test_homogeneous_kinds_are(name: str) -> None:
    for call in CALLS[name]:
        if isinstance(call, nn.Module):
            call.eval()
        torch.testing.assert_close(call(3 * IMAGES), 3 * call(IMAGES))


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].moves])
def test_moving_kinds_give_what_they_take_or_zero(name: str) -> None:
    values = {0.0, *IMAGES.flatten().tolist()}
    for call in CALLS[name]:
        if isinstance(call, nn.Module):
            call.eval()
        given = call(IMAGES)
        assert set(given.flatten().tolist()) <= values


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (node_of(F.pad, (1, 1)), True),
        (node_of(F.pad, (1, 1), value=2.0), False),
        (node_of(F.pad, (1, 1), "reflect"), False),
        (node_of(torch.ops.aten.pad.default, [1, 1], "constant", 0.0), True),
        (node_of(torch.ops.aten.constant_pad_nd.default, [1, 1]), True),
        (node_of(torch.ops.aten.constant_pad_nd.default, [1, 1], 1.0), False),
        (node_of(operator.getitem, (slice(None), slice(1, 2))), True),
        (node_of(operator.getitem, (slice(None), 0)), False),
        (node_of(operator.getitem, 0), False),
        (node_of("unsqueeze", 1), True),
    ],
)
def test_moves_by_arguments(node: fx.Node, expected: bool) -> None:
    assert moves(node) == expected


def test_zero_padding_tells_the_sizes() -> None:
    assert zero_padding(node_of(F.pad, pad=(0, 1))) == (0, 1)
    assert zero_padding(node_of(F.pad, (0, 1), "constant", 0)) == (0, 1)
    assert zero_padding(node_of(F.pad, (0, 1), "constant", 1)) is None


def test_joined_operands_are_those_that_integer_kernels_take() -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.get_attr("y")
    computed = {x}.__contains__
    two = graph.call_function(torch.mul, (x, x))
    assert joined_operands(two, computed) == []  # of one tensor
    assert joined_operands(graph.call_function(torch.add, (x, y)), computed) == []
    assert joined_operands(graph.call_function(torch.add, (x, y)), lambda _: True) == [x, y]
    assert joined_operands(graph.call_function(torch.cat, ([x, y],)), computed) == [x, y]
    assert joined_operands(graph.call_method("mean", (x, [-1, -2])), computed) == [x]
    assert joined_operands(graph.call_method("mean", (x,), {"axis": (2, 3)}), computed) == [x]
    assert joined_operands(graph.call_method("mean", (x, 1)), computed) == []


def test_products_that_are_no_modules() -> None:
    graph_module = fx.symbolic_trace(
        Calling(lambda x: torch.mm(x, x) @ F.linear(x, x) + x.matmul(x))
    )
    assert product_calls(graph_module) == {
        "mm": "mm",
        "linear": "linear",
        "matmul": "matmul",
        "matmul_1": "matmul",
    }


def test_names_of_onnx() -> None:
    moving = set(onnx_names(lambda kind: kind.moves))
    assert {"Flatten", "MaxPool", "Pad", "Split", "Transpose"} <= moving
    assert set(onnx_names(lambda kind: kind.swapped)) < moving


def test_the_page_shows_the_table() -> None:
    docs = Path(__file__).parents[3] / "docs"
    page = runpy.run_path(str(docs / "write_operations.py"))["operations_page"]()
    assert (docs / "operations.md").read_text() == page, "run python docs/write_operations.py"
