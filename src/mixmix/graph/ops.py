"""The table of operations: how PyTorch and ONNX call each one, and what passes may do with it.

All passes over graphs read this table: placement of quantizers, equalization, fused BatchNorm,
export. To support a new activation function, add a line to ``_TABLE``; ``docs/operations.md``
shows the table.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mixmix.graph.batch_norm import BatchNorm
from mixmix.graph.calls import argument, is_call_to, module_of

__all__ = [
    "KINDS",
    "Kind",
    "bounds_of",
    "fills",
    "has_kind",
    "is_homogeneous",
    "joined_operands",
    "kind_of",
    "moves",
    "narrows",
    "onnx_names",
    "product_calls",
    "zero_padding",
]

Modules = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Kind:
    """A kind of operation.

    Attributes:
        name: of the kind.
        names: of its functions in ``torch``, ``torch.nn.functional`` and ``torch.ops.aten``, and of
            its tensor methods.
        modules: classes; subclasses are of the same kind.
        others: functions from elsewhere.
        onnx: operators that ONNX exporters write for it.
        moves: every output value is an input value or zero, so quantizing before it and after it is
            the same. ``pad`` and ``index`` depend on their arguments; call ``moves``.
        narrows: it clamps; an integer kernel absorbs it if a quantizer follows.
        joins: which operands its integer kernel takes quantized: the only one, exactly two, or all;
            empty if it has no such kernel. ``mean`` has one over height and width only; call
            ``joined_operands``.
        homogeneous: ``f(s x) = s f(x)`` for s > 0, per channel. Clamps to [0, inf) are homogeneous
            as well; call ``is_homogeneous``.
        bounds: of a clamp, unless the call overrides them.
        bounds_names: arguments of functions, and attributes of modules, that override ``bounds``.
        lifted: torch.export separates its weights from their module; ``graph.lift`` rejoins them.
        product: it multiplies activations or weights, and stays in float unless it is a layer.
        swapped: ONNX Runtime moves a preceding DequantizeLinear past it.
        sizes: it reads shapes, not values.
    """

    name: str
    names: tuple[str, ...] = ()
    modules: tuple[type[nn.Module], ...] = ()
    others: tuple[Callable[..., Any], ...] = ()
    onnx: tuple[str, ...] = ()
    moves: bool = False
    narrows: bool = False
    joins: Literal["", "one", "two", "all"] = ""
    homogeneous: bool = False
    bounds: tuple[float, float] | None = None
    bounds_names: tuple[str, str] | None = None
    lifted: bool = False
    product: bool = False
    swapped: bool = False
    sizes: bool = False

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """Its Python functions."""
        found = (getattr(place, name, None) for place in (torch, F) for name in self.names)
        return (*self.others, *dict.fromkeys(each for each in found if each is not None))

    @property
    def methods(self) -> tuple[str, ...]:
        """Its tensor methods."""
        return tuple(name for name in self.names if hasattr(Tensor, name))

    @property
    def packets(self) -> tuple[Any, ...]:
        """Its overload packets in ``torch.ops.aten``."""
        aten = torch.ops.aten
        return tuple(getattr(aten, name) for name in self.names if hasattr(aten, name))


def _inplace(*names: str) -> tuple[str, ...]:
    """Names of operations and of their in-place variants."""
    return (*names, *(f"{name}_" for name in names))


_CONVOLUTIONS = (nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_RESHAPES = ("flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view")
_DROPOUT_NAMES = (
    *_inplace("dropout", "feature_dropout", "alpha_dropout"),
    *("dropout1d", "dropout2d", "dropout3d"),
)
_CONVOLUTION_NAMES = (
    *("conv1d", "conv3d"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
)
_MATMULS = ("matmul", "mm", "addmm", "bmm", "baddbmm", "einsum", "bilinear")

# fmt: off
_TABLE = (
    # Activation functions; without further flags, they run in float between two quantizers.
    Kind("relu", _inplace("relu"), (nn.ReLU,), onnx=("Relu",), narrows=True,
         bounds=(0.0, math.inf)),
    Kind("relu6", _inplace("relu6"), (nn.ReLU6,), onnx=("Clip",), narrows=True, bounds=(0.0, 6.0)),
    Kind("hardtanh", _inplace("hardtanh"), (nn.Hardtanh,), onnx=("Clip",), narrows=True,
         bounds=(-1.0, 1.0), bounds_names=("min_val", "max_val")),
    Kind("clamp", _inplace("clamp", "clip"), onnx=("Clip",), narrows=True,
         bounds=(-math.inf, math.inf), bounds_names=("min", "max")),
    Kind("leaky_relu", _inplace("leaky_relu"), (nn.LeakyReLU,), onnx=("LeakyRelu",),
         homogeneous=True),
    Kind("prelu", ("prelu",), (nn.PReLU,), onnx=("PRelu",), homogeneous=True),
    Kind("sigmoid", _inplace("sigmoid"), (nn.Sigmoid,), onnx=("Sigmoid",), joins="one"),
    Kind("silu", _inplace("silu"), (nn.SiLU,), onnx=("Sigmoid", "Mul")),
    Kind("hardswish", _inplace("hardswish"), (nn.Hardswish,), onnx=("HardSwish",)),
    Kind("hardsigmoid", _inplace("hardsigmoid"), (nn.Hardsigmoid,), onnx=("HardSigmoid",)),
    Kind("gelu", ("gelu",), (nn.GELU,), onnx=("Gelu",)),
    Kind("elu", _inplace("elu"), (nn.ELU,), onnx=("Elu",)),
    Kind("mish", _inplace("mish"), (nn.Mish,), onnx=("Mish",)),
    Kind("softplus", ("softplus",), (nn.Softplus,), onnx=("Softplus",)),
    Kind("tanh", _inplace("tanh"), (nn.Tanh,), onnx=("Tanh",)),
    Kind("softmax", ("softmax",), (nn.Softmax,), onnx=("Softmax",)),
    # Operations on several tensors.
    Kind("add", _inplace("add"), others=(operator.add, operator.iadd), onnx=("Add",), joins="two"),
    Kind("mul", _inplace("mul", "multiply"), others=(operator.mul, operator.imul), onnx=("Mul",),
         joins="two"),
    Kind("cat", ("cat", "concat", "concatenate"), onnx=("Concat",), joins="all"),
    # Pooling.
    Kind("pool_max", ("max_pool2d",), (nn.MaxPool2d,), onnx=("MaxPool",), moves=True,
         homogeneous=True, swapped=True),
    Kind("pool_avg", ("avg_pool2d", "adaptive_avg_pool2d"), (nn.AvgPool2d, nn.AdaptiveAvgPool2d),
         onnx=("AveragePool", "GlobalAveragePool"), joins="one", homogeneous=True),
    Kind("mean", ("mean",), onnx=("ReduceMean",), joins="one"),
    # Operations that move values.
    Kind("identity", ("contiguous", "clone", "detach", "alias"), (nn.Identity,), onnx=("Identity",),
         moves=True, homogeneous=True),
    Kind("dropout", _DROPOUT_NAMES, _DROPOUTS, moves=True, homogeneous=True),
    Kind("reshape", _RESHAPES, (nn.Flatten, nn.Unflatten),
         onnx=("Flatten", "Reshape", "Squeeze", "Unsqueeze"), moves=True, swapped=True),
    Kind("transpose", ("movedim", "permute", "swapaxes", "transpose"), onnx=("Transpose",),
         moves=True, swapped=True),
    Kind("channel_shuffle", ("channel_shuffle",), (nn.ChannelShuffle,), moves=True),
    Kind("slice", ("narrow", "slice"), onnx=("Slice",), moves=True, swapped=True),
    Kind("split", ("chunk", "split", "split_with_sizes", "tensor_split"), onnx=("Split",),
         moves=True),
    Kind("pad", ("pad", "constant_pad_nd"), (nn.ConstantPad2d,), onnx=("Pad",), moves=True),
    Kind("fill", ("where", *_inplace("masked_fill")), onnx=("Where",)),
    Kind("index", others=(operator.getitem,), onnx=("Slice",), moves=True),
    # Layers and other products.
    Kind("conv2d", ("conv2d",), (nn.Conv2d,), onnx=("Conv",), lifted=True, product=True),
    Kind("linear", ("linear",), (nn.Linear,), onnx=("Gemm",), lifted=True, product=True),
    Kind("convolution", _CONVOLUTION_NAMES, _CONVOLUTIONS, onnx=("Conv", "ConvTranspose"),
         product=True),
    Kind("matmul", _MATMULS, (nn.Bilinear,), (operator.matmul,), onnx=("MatMul",), product=True),
    Kind("attention", ("scaled_dot_product_attention",), onnx=("MatMul", "Softmax"), product=True),
    # Normalizations.
    Kind("batch_norm", ("batch_norm",), (BatchNorm,), onnx=("BatchNormalization",), lifted=True),
    Kind("norm", ("layer_norm", "group_norm", "rms_norm"), (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
         onnx=("LayerNormalization", "GroupNormalization")),
    # Shapes.
    Kind("size", ("dim", "numel", "size", "sym_size", "sym_numel"), others=(getattr,),
         onnx=("Shape",), sizes=True),
)
# fmt: on

KINDS: dict[str, Kind] = {kind.name: kind for kind in _TABLE}


def _index(keys: Callable[[Kind], Sequence[Any]]) -> dict[Any, Kind]:
    """From modules, functions or methods to their kinds."""
    found: dict[Any, Kind] = {}
    for kind in _TABLE:
        for key in keys(kind):
            if found.setdefault(key, kind) is not kind:
                raise AssertionError(f"{key} is both {found[key].name} and {kind.name}")
    return found


_BY_MODULE = _index(lambda kind: kind.modules)
_BY_FUNCTION = _index(lambda kind: (*kind.functions, *kind.packets))
_BY_METHOD = _index(lambda kind: kind.methods)


def kind_of(node: Any, modules: Modules | None = None) -> Kind | None:
    """The kind of a node; None if the table does not have it, or it is no node.

    Args:
        node: a node, or any other argument of a node.
        modules: by name; without them, calls to modules are not recognized.
    """
    if not isinstance(node, fx.Node):
        return None
    if node.op == "call_method":
        return _BY_METHOD.get(node.target)
    if node.op == "call_function":
        return _BY_FUNCTION.get(getattr(node.target, "overloadpacket", node.target))
    module = module_of(node, modules or {})
    classes = () if module is None else type(module).__mro__
    return next((_BY_MODULE[each] for each in classes if each in _BY_MODULE), None)


def has_kind(node: Any, *names: str, modules: Modules | None = None) -> bool:
    """Whether a node is of one of these kinds."""
    assert KINDS.keys() >= set(names), f"no such kinds: {set(names) - KINDS.keys()}"
    kind = kind_of(node, modules)
    return kind is not None and kind.name in names


def onnx_names(matches: Callable[[Kind], bool]) -> tuple[str, ...]:
    """ONNX operators of the kinds that match, sorted."""
    return tuple(sorted({name for kind in _TABLE if matches(kind) for name in kind.onnx}))


def moves(node: Any, modules: Modules | None = None) -> bool:
    """Whether every output value of a node is a value of its first argument, or zero.

    Padding must be with zeros, and an index must consist of slices or take a part of a split.
    """
    kind = kind_of(node, modules)
    if kind is None or not kind.moves:
        return False
    if kind.name == "pad":
        return _padding_value(node, modules) in (None, 0)
    if kind.name == "index":
        of, index = node.args
        if has_kind(of, "split", modules=modules):
            return True
        return isinstance(index, tuple) and all(
            one is None or one is Ellipsis or isinstance(one, slice) for one in index
        )
    return True


def fills(node: Any, modules: Modules | None = None) -> bool:
    """Whether a node writes other values than zero among those of its input.

    Such values are often so low that the maximum behind them ignores them.
    """
    is_pad = has_kind(node, "pad", modules=modules)
    return has_kind(node, "fill", modules=modules) or (
        is_pad and _padding_value(node, modules) not in (None, 0, "copies")
    )


def zero_padding(node: fx.Node) -> Sequence[Any] | None:
    """The padding of a call of ``F.pad`` and the like with zeros; None for other values."""
    sizes = argument(node, 1, "pad")
    zeros = _padding_value(node) in (None, 0)
    return sizes if zeros and isinstance(sizes, Sequence) else None


def _padding_value(node: fx.Node, modules: Modules | None = None) -> Any:
    """What a node pads with; "copies" if it repeats or reflects its input, None if not given."""
    module = module_of(node, modules or {})
    if module is not None:
        return getattr(module, "value", None)
    if is_call_to(node, torch.constant_pad_nd, torch.ops.aten.constant_pad_nd):
        return argument(node, 2, "value")
    mode = argument(node, 2, "mode")
    return argument(node, 3, "value") if mode in (None, "constant") else "copies"


def narrows(node: Any, modules: Modules | None = None) -> bool:
    """Whether an integer kernel absorbs a node that a quantizer follows."""
    kind = kind_of(node, modules)
    return kind is not None and kind.narrows


def bounds_of(node: Any, modules: Modules | None = None) -> tuple[float, float] | None:
    """The bounds of a clamp; None for other nodes, and where bounds are tensors."""
    kind = kind_of(node, modules)
    if kind is None or kind.bounds is None or kind.bounds_names is None:
        return None if kind is None else kind.bounds
    module = module_of(node, modules or {})
    found = []
    for position, (name, default) in enumerate(
        zip(kind.bounds_names, kind.bounds, strict=True), start=1
    ):
        value = argument(node, position, name) if module is None else getattr(module, name)
        if not (value is None or isinstance(value, (int, float))):
            return None
        found.append(default if value is None else float(value))
    return found[0], found[1]


def is_homogeneous(node: Any, modules: Modules | None = None) -> bool:
    """Whether ``f(s x) = s f(x)`` for s > 0, per channel."""
    kind = kind_of(node, modules)
    return kind is not None and (kind.homogeneous or bounds_of(node, modules) == (0.0, math.inf))


def joined_operands(
    node: Any, is_computed: Callable[[fx.Node], bool], modules: Modules | None = None
) -> list[fx.Node]:
    """Operands that the integer kernel of an addition, concatenation, pooling etc. takes quantized.

    Args:
        node: of a graph.
        is_computed: whether an operand depends on the network's input.
        modules: by name.
    """
    kind = kind_of(node, modules)
    if kind is None or not kind.joins:
        return []
    operands: list[fx.Node] = node.all_input_nodes
    if kind.joins == "one":
        return operands[:1] if kind.name != "mean" or _is_over_image(node) else []
    if kind.joins == "two":
        return operands if len(operands) == 2 and all(map(is_computed, operands)) else []
    return operands


def _is_over_image(node: fx.Node) -> bool:
    """Whether a mean is over height and width of (N, C, H, W)."""
    axes = argument(node, 1, "dim", "axis")
    return isinstance(axes, Sequence) and sorted(axes) in ([2, 3], [-2, -1])


def product_calls(graph_module: fx.GraphModule) -> dict[str, str]:
    """Products that are no modules: from names of nodes to names of functions."""
    found = {}
    for node in graph_module.graph.nodes:
        kind = kind_of(node)
        if kind is not None and kind.product:
            function = str(getattr(node.target, "__name__", node.target))
            found[str(node.name)] = function.partition(".")[0]
    return found
