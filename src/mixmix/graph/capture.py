"""Capture of modules as graphs of layers."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from mixmix.errors import CaptureError, first_line, raise_if_out_of_memory
from mixmix.graph.calls import is_call_to, module_of
from mixmix.graph.lift import lift_layers
from mixmix.graph.ops import kind_of
from mixmix.graph.tracing_failure import FailurePlace, find_failure
from mixmix.runtime.quiet import quiet

__all__ = ["FOLD_TOLERANCE", "capture", "check_outputs", "relative_error"]

FOLD_TOLERANCE = 1e-3


def capture(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """Trace a copy of ``model`` (eval mode) into a graph whose layers are modules.

    torch.fx comes first, since it keeps modules and their names. torch.export follows for models
    with control flow, functional layers, and modules such as ``MultiheadAttention`` that torch.fx
    does not trace into.

    Args:
        model: takes a batch like ``example``.
        example: (N, C, H, W) normalized images, N >= 2.

    Raises:
        CaptureError: naming the module that could not be followed, and what to do.
    """
    original = copy.deepcopy(model).eval()
    example = example.contiguous()  # views in the model may need that
    reasons = []
    place = FailurePlace("", type(model).__name__, "")
    for name, trace in (("torch.fx", _trace_fx), ("torch.export", _trace_export)):
        try:
            graph_module = trace(original, example)
            with torch.no_grad():
                error = relative_error(graph_module(example), original(example))
        except Exception as failure:  # tracers raise whatever the model's own code raises
            raise_if_out_of_memory(failure)
            reasons.append(f"{name}: {first_line(failure)}")
            found = find_failure(failure, original)
            # torch.export traces more than torch.fx: the place where it fails is the better hint.
            place = found if found.module or found.code else place
            continue
        if error <= FOLD_TOLERANCE:
            _flatten_constants(graph_module)
            _reshape_views(graph_module)
            return graph_module
        reasons.append(f"{name}: the outputs of the captured graph differ by {error:.1%}")
    raise CaptureError(
        f"{type(model).__name__} cannot be captured as a graph because of {place}. "
        f"{'; '.join(reasons)}. Use PyTorch operations only, and torch.where instead of branches "
        "that depend on values of the input, or compress the model without that module"
    )


def _flatten_constants(graph_module: fx.GraphModule) -> None:
    """Store constants with five or more dimensions flat and reshape them on reading, in place.

    PyTorch cannot convert modules with such buffers to channels-last.
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
    """Replace views by reshapes, which take any memory format, in place."""
    for node in graph_module.graph.nodes:
        if is_call_to(node, "view") and not any(isinstance(a, torch.dtype) for a in node.args):
            node.target = "reshape"
        elif node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    graph_module.recompile()


def _trace_fx(model: nn.Module, example: Tensor) -> fx.GraphModule:
    graph_module = fx.symbolic_trace(model)
    for node in graph_module.graph.nodes:
        kind = kind_of(node)
        if kind is not None and kind.lifted:
            raise CaptureError(f"{node.name} is a layer called as a function")
    modules = dict(graph_module.named_modules())
    for node in graph_module.graph.nodes:
        called = module_of(node, modules)
        if called is not None and next(called.children(), None) is not None:
            raise CaptureError(f"{node.target} ({type(called).__name__}) contains layers")
    for node in graph_module.graph.find_nodes(op="get_attr"):
        owner = modules.get(str(node.target).rpartition(".")[0])
        if isinstance(owner, nn.Conv2d | nn.Linear):
            raise CaptureError(f"{node.target} is read outside of its layer")
    return graph_module


def _trace_export(model: nn.Module, example: Tensor) -> fx.GraphModule:
    batch = torch.export.Dim("batch", min=1)
    with quiet():
        # Not strict: the modules' own code runs, so that tracebacks show where it failed.
        program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},), strict=False)
    graph_module = program.module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    return lift_layers(graph_module)


@torch.no_grad()
def check_outputs(
    graph_module: fx.GraphModule, example: Tensor, before: Tensor, *, step: str, hint: str
) -> None:
    """Check that a rewriting step has not changed the outputs.

    Raises:
        CaptureError: if it has, with the hint.
    """
    error = relative_error(graph_module(example), before)
    if not error <= FOLD_TOLERANCE:
        raise CaptureError(
            f"{step} changed the outputs by {error:.2%} (at most {FOLD_TOLERANCE:.1%} is numerical "
            f"noise); {hint}"
        )


def relative_error(value: Tensor, reference: Tensor) -> float:
    """``|| value - reference || / || reference ||``."""
    return float((value - reference).norm() / reference.norm().clamp_min(1e-12))
