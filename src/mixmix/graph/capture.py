"""From any module to a graph of plain layers with BatchNorm folded away."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from mixmix.errors import CaptureError, first_line
from mixmix.graph.exported_contexts import inline_contexts_
from mixmix.graph.tracing_failure import FailurePlace, find_failure
from mixmix.runtime.quiet import quiet

__all__ = ["capture", "fold_batch_norms", "is_call_to", "lift_layers", "module_of"]

FOLD_TOLERANCE = 1e-3


def capture(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """Trace a copy of ``model`` (eval mode) into a graph whose layers are modules.

    torch.fx is tried first since it keeps modules and their names; torch.export serves models whose
    Python control flow torch.fx cannot follow, functional layers, and modules such as
    ``MultiheadAttention`` whose layers torch.fx does not look into.

    Args:
        model: takes a batch like ``example``.
        example: (N, C, H, W) normalized images, N >= 2.

    Raises:
        CaptureError: naming the module that could not be followed, and what to do.
    """
    original = copy.deepcopy(model).eval()
    example = example.contiguous()  # a model's own views may need that
    reasons = []
    place = FailurePlace("", type(model).__name__, "")
    for name, trace in (("torch.fx", _trace_fx), ("torch.export", _trace_export)):
        try:
            graph_module = trace(original, example)
            with torch.no_grad():
                error = relative_error(graph_module(example), original(example))
        except Exception as failure:  # tracers raise whatever the model's own code raises
            reasons.append(f"{name}: {first_line(failure)}")
            found = find_failure(failure, original)
            # torch.export follows more than torch.fx, and where it stops is what has to be changed.
            place = found if found.module or found.code else place
            continue
        if error <= FOLD_TOLERANCE:
            _flatten_constants(graph_module)
            _reshape_views(graph_module)
            return graph_module
        reasons.append(f"{name}: the captured graph gives other outputs (by {error:.1%})")
    raise CaptureError(
        f"{type(model).__name__} cannot be captured as a graph because of {place}. "
        f"{'; '.join(reasons)}. What is computed must not depend on the values in the input, and "
        "must be PyTorch's: choose by torch.where there instead of branching, or take that module "
        "out and compress what is left"
    )


def _flatten_constants(graph_module: fx.GraphModule) -> None:
    """Keep constants of five axes and more flat, in place, and give them their shape when read.

    PyTorch puts no module into channels-last order that holds a buffer of so many axes.
    """
    buffers = dict(graph_module.named_buffers(recurse=False))
    large = {name for name, value in buffers.items() if value.ndim > 4}
    for node in list(graph_module.graph.find_nodes(op="get_attr")):
        if node.target not in large:
            continue
        value, name = buffers[str(node.target)], f"{node.target}_flat"
        graph_module.register_buffer(name, value.detach().flatten())
        with graph_module.graph.inserting_before(node):
            flat = graph_module.graph.get_attr(name)
            shaped = graph_module.graph.call_function(torch.reshape, (flat, tuple(value.shape)))
        node.replace_all_uses_with(shaped)
        graph_module.graph.erase_node(node)
    for name in large:
        delattr(graph_module, name)
    graph_module.recompile()


def _reshape_views(graph_module: fx.GraphModule) -> None:
    """Let views of shapes be reshapes, in place: these take any order of memory."""
    for node in graph_module.graph.nodes:
        if is_call_to(node, "view") and not any(isinstance(a, torch.dtype) for a in node.args):
            node.target = "reshape"
        elif node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    graph_module.recompile()


def _trace_fx(model: nn.Module, example: Tensor) -> fx.GraphModule:
    graph_module = fx.symbolic_trace(model)
    functional = [
        node
        for node in graph_module.graph.nodes
        if is_call_to(node, F.conv2d, F.linear, F.batch_norm)
    ]
    if functional:
        raise CaptureError(f"{functional[0].name} is a layer called as a function")
    modules = dict(graph_module.named_modules())
    for node in graph_module.graph.nodes:
        called = module_of(node, modules)
        if called is not None and next(called.children(), None) is not None:
            raise CaptureError(f"{node.target} ({type(called).__name__}) holds layers of its own")
    for node in graph_module.graph.find_nodes(op="get_attr"):
        owner = modules.get(str(node.target).rpartition(".")[0])
        if isinstance(owner, nn.Conv2d | nn.Linear):
            raise CaptureError(f"{node.target} is read outside of its layer")
    return graph_module


def _trace_export(model: nn.Module, example: Tensor) -> fx.GraphModule:
    batch = torch.export.Dim("batch", min=1)
    with quiet():
        # Not strict: the modules' own code runs, so that a failure tells where it was.
        program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},), strict=False)
    graph_module = program.module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    return lift_layers(graph_module)


def lift_layers(exported: fx.GraphModule) -> fx.GraphModule:
    """Turn the exported calls of convolutions, linear layers and BatchNorm back into modules.

    The exported module is changed, too.
    """
    inline_contexts_(exported)
    aten = torch.ops.aten
    root = nn.Module()
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
    builders: dict[Any, Callable[[dict[int, Any]], nn.Module]] = {
        aten.conv2d.default: _build_conv2d,
        aten.conv2d.padding: _build_conv2d,
        aten.linear.default: _build_linear,
        aten.batch_norm.default: _build_batch_norm,
    }

    def attribute(node: Any) -> Any:
        if not (isinstance(node, fx.Node) and node.op == "get_attr"):
            return node
        value: Any = exported
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value

    for node in exported.graph.nodes:
        # BatchNorm without factors has its statistics alone.
        first = next((a for a in node.args[1:] if isinstance(a, fx.Node)), None)
        if node.target in builders and first is not None and first.op == "get_attr":
            name = _layer_name(str(first.target))
            values = {index: attribute(value) for index, value in enumerate(node.args) if index}
            values[0] = node.args[0].meta.get("val")
            path = _add_module(root, name, builders[node.target](values))
            copies[node] = graph.call_module(path, (copies[node.args[0]],))
        elif node.op == "get_attr":
            name = str(node.target).replace(".", "_")
            if not hasattr(root, name):
                root.register_buffer(name, attribute(node).detach())
            copies[node] = graph.get_attr(name)
        elif node.op == "call_module":
            continue  # torch.export's own guards
        elif node.op == "output":
            outputs = node.args[0]
            single = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
            graph.output(copies[single])
        else:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    assert len(placeholders) == 1
    lifted = fx.GraphModule(root, graph)
    lifted.graph.eliminate_dead_code()
    lifted.recompile()
    return lifted


def _layer_name(weight: str) -> str:
    """Of the layer with this parameter.

    ``head.weight`` is of ``head``; ``attn.in_proj_weight`` of ``attn.in_proj``, as one of several.
    """
    parent, _, leaf = weight.rpartition(".")
    if leaf in ("weight", "running_mean") and parent:
        return parent
    return ".".join(filter(None, (parent, leaf.removesuffix("_weight"))))


def _add_module(root: nn.Module, name: str, module: nn.Module) -> str:
    """Register under a qualified name; a layer that is called twice is the same module."""
    parent, _, leaf = name.rpartition(".")
    current = root
    for part in filter(None, parent.split(".")):
        if not hasattr(current, part):
            current.add_module(part, nn.Module())
        current = getattr(current, part)
    if not hasattr(current, leaf):
        current.add_module(leaf, module)
    return name


def _build_conv2d(args: dict[int, Any]) -> nn.Module:
    weight: Tensor = args[1]
    groups = args.get(6, 1)
    bias = args.get(2)
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=tuple(args.get(3, (1, 1))),
        padding=args[4] if isinstance(args.get(4), str) else tuple(args.get(4, (0, 0))),
        dilation=tuple(args.get(5, (1, 1))),
        groups=groups,
        bias=bias is not None,
    )
    return _with_values(layer, weight=weight, bias=bias)


def _build_linear(args: dict[int, Any]) -> nn.Module:
    weight: Tensor = args[1]
    bias = args.get(2)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _with_values(layer, weight=weight, bias=bias)


def _build_batch_norm(args: dict[int, Any]) -> nn.Module:
    x: Tensor | None = args[0]
    kind = nn.BatchNorm2d if x is None or x.ndim == 4 else nn.BatchNorm1d
    layer = kind(len(args[3]), eps=args[7], affine=args[1] is not None)
    return _with_values(
        layer, weight=args[1], bias=args[2], running_mean=args[3], running_var=args[4]
    )


@torch.no_grad()
def _with_values(layer: nn.Module, **values: Tensor | None) -> nn.Module:
    for name, value in values.items():
        if value is not None:
            getattr(layer, name).copy_(value)
    return layer.eval().to(next(v.device for v in values.values() if v is not None))


def fold_batch_norms(graph_module: fx.GraphModule, example: Tensor) -> dict[str, str]:
    """Fold every BatchNorm that follows a convolution or linear layer into it, in place.

    Args:
        graph_module: from ``capture``.
        example: normalized images on which the folded graph must give the same outputs.

    Returns:
        For each BatchNorm folded, its name and that of the layer that it went into.

    Raises:
        CaptureError: if the outputs differ afterwards.
    """
    with torch.no_grad():
        before = graph_module(example)
    modules = dict(graph_module.named_modules())
    calls: dict[str, int] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    folded: dict[str, str] = {}
    for node in list(graph_module.graph.nodes):
        norm = module_of(node, modules)
        if not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) or norm.running_mean is None:
            continue
        source = node.args[0]
        layer = module_of(source, modules)
        alone = len(source.users) == 1 and calls.get(str(source.target)) == 1
        if not alone or calls[str(node.target)] > 1:
            continue
        if isinstance(layer, nn.Conv2d):
            fused: nn.Module = fuse_conv_bn_eval(layer, norm)
        elif isinstance(layer, nn.Linear):
            fused = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        graph_module.set_submodule(str(source.target), fused)
        modules[str(source.target)] = fused
        node.replace_all_uses_with(source)
        graph_module.graph.erase_node(node)
        folded[str(node.target)] = str(source.target)
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    graph_module.requires_grad_(False)
    with torch.no_grad():
        error = relative_error(graph_module(example), before)
    if not error <= FOLD_TOLERANCE:
        raise CaptureError(
            f"folding BatchNorm changed the outputs by {error:.2%} (at most {FOLD_TOLERANCE:.1%} "
            "is numerical noise); a running variance near zero is the usual cause: check the "
            "checkpoint"
        )
    return folded


def relative_error(value: Tensor, reference: Tensor) -> float:
    """``|| value - reference || / || reference ||``."""
    return float((value - reference).norm() / reference.norm().clamp_min(1e-12))


def module_of(node: Any, modules: dict[str, nn.Module]) -> nn.Module | None:
    """The module that a node calls, or None."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return modules.get(str(node.target))
    return None


def is_call_to(node: fx.Node, *functions: Any) -> bool:
    """Whether a node calls one of these functions, methods (by name) or aten overload packets."""
    if node.op == "call_method":
        return node.target in functions
    if node.op != "call_function":
        return False
    packet = getattr(node.target, "overloadpacket", None)
    return node.target in functions or (packet is not None and packet in functions)


ADDITIONS = (
    operator.add,
    operator.iadd,
    torch.add,
    "add",
    "add_",
    torch.ops.aten.add,
    torch.ops.aten.add_,
)
CONCATENATIONS = (torch.cat, torch.concat, torch.ops.aten.cat)
