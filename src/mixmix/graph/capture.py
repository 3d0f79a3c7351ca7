"""Capture of modules as graphs of layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from mixmix.errors import CaptureError, first_line, raise_if_out_of_memory
from mixmix.graph.agreement import output_error
from mixmix.graph.calls import is_call_to, module_of
from mixmix.graph.copies import detached_copy
from mixmix.graph.images import mark_images_, two_batches
from mixmix.graph.in_place import remove_in_place_
from mixmix.graph.lift import lift_layers
from mixmix.graph.ops import kind_of
from mixmix.graph.tracing_failure import FailurePlace, find_failure
from mixmix.runtime.quiet import quiet

__all__ = [
    "FOLD_TOLERANCE",
    "capture",
    "check_chain",
    "check_outputs",
    "evaluating",
]

FOLD_TOLERANCE = 1e-3
_FIXED_BATCH = (
    "the number of images is a constant in the graph, as after len(x) or int(x.shape[0]); read it "
    "by x.shape[0]"
)


def capture(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """Trace a copy of ``model`` (eval mode) into a graph whose layers are modules.

    torch.fx comes first, since it keeps modules and their names. torch.export follows for models
    with control flow, functional layers, hooks, and modules such as ``MultiheadAttention`` that
    torch.fx does not trace into. Nodes have ``meta["images"]``, see ``mark_images_``. Nothing in
    the graph works in place.

    Args:
        model: takes a batch like ``example``.
        example: (N, C, H, W) normalized images.

    Raises:
        CaptureError: naming the module that could not be followed, and what to do.
    """
    # Views of parameters that require gradients cannot be changed in place.
    original = detached_copy(model).eval().requires_grad_(False)
    example = example.contiguous()  # views in the model may need that
    batches = two_batches(example)
    reasons = []
    place = FailurePlace("", type(model).__name__, "")
    wanted = _outputs_of(model, batches)
    for name, trace in (("torch.fx", _trace_fx), ("torch.export", _trace_export)):
        try:
            graph_module = trace(original, example)
            found = mark_images_(graph_module, batches)
            error = max(map(output_error, found, wanted))
        except Exception as failure:  # tracers raise whatever the model's own code raises
            raise_if_out_of_memory(failure)
            fixed = "Constraints violated (batch)" in str(failure)
            reasons.append(f"{name}: {_FIXED_BATCH if fixed else first_line(failure)}")
            at = find_failure(failure, original)
            # torch.export traces more than torch.fx: the place where it fails is the better hint.
            place = at if at.module or at.code else place
            continue
        if error <= FOLD_TOLERANCE:
            graph_module.graph.eliminate_dead_code()
            _flatten_constants(graph_module)
            _reshape_views(graph_module)
            return graph_module
        reasons.append(f"{name}: the outputs of the captured graph differ by {error:.1%}")
    _check_outputs_of(original, batches[0], wanted[0])
    raise CaptureError(
        f"{type(model).__name__} cannot be captured as a graph because of {place}. "
        f"{'; '.join(reasons)}. Use PyTorch operations only, and torch.where instead of branches "
        "that depend on values of the input, or compress the model without that module"
    )


@torch.no_grad()
def check_chain(
    units: Sequence[Callable[[Tensor], Tensor]], model: nn.Module, example: Tensor
) -> None:
    """Check that what was made of a network, before anything is learned, gives its outputs.

    Args:
        units: their composition is the network.
        model: the network itself.
        example: (N, C, H, W) normalized images.

    Raises:
        CaptureError: if the outputs differ for one of two batches.
    """
    batches = two_batches(example.contiguous())
    for batch, wanted in zip(batches, _outputs_of(model, batches), strict=True):
        found = batch
        for unit in units:
            found = unit(found)
        error = output_error(found, wanted) if found.shape == wanted.shape else math.inf
        if not error <= FOLD_TOLERANCE:
            raise CaptureError(
                f"{type(model).__name__} gives other outputs as a graph (by {error:.1%} on "
                f"{len(batch)} images) than as a module, before anything was compressed; this is a "
                "fault of mixmix: please report it with the code of the network"
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context in which the caller's own network is in eval mode."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@torch.no_grad()
def _outputs_of(model: nn.Module, batches: Sequence[Tensor]) -> list[Tensor]:
    """Outputs of a network in eval mode."""
    kind = type(model).__name__
    found = []
    with evaluating(model):
        for images in batches:
            try:
                outputs = model(images.clone())  # which the model may change
            except Exception as failure:  # whatever the model's own code raises
                raise_if_out_of_memory(failure)
                raise CaptureError(
                    f"{kind} cannot take {len(images)} images of {tuple(images.shape[1:])}: "
                    f"{first_line(failure)}, in {find_failure(failure, model)}"
                ) from failure
            if not isinstance(outputs, Tensor):
                raise CaptureError(f"{kind} returns a {type(outputs).__name__}, expected a tensor")
            found.append(outputs)
    return found


@torch.no_grad()
def _check_outputs_of(model: nn.Module, images: Tensor, outputs: Tensor) -> None:
    """Check that a network gives the outputs that it gave before, and that these are numbers."""
    kind = type(model).__name__
    if not bool(torch.isfinite(outputs).all()):
        raise CaptureError(f"{kind} returns NaN or infinite values; check its weights and inputs")
    if not output_error(model(images.clone()), outputs) <= FOLD_TOLERANCE:
        raise CaptureError(
            f"{kind} returns other outputs when it is called again with the same images; turn off "
            "what is random in eval mode, and what it remembers between calls"
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
        elif is_call_to(node, torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            node.target = torch.ops.aten.reshape.default
    graph_module.recompile()


def _trace_fx(model: nn.Module, example: Tensor) -> fx.GraphModule:
    for module in (model, *model.modules()):
        # torch.fx calls layers, and knows the class of the network only.
        if (module is model or not any(module.children())) and (change := _own_behavior(module)):
            raise CaptureError(f"{change} of {type(module).__name__} is not part of the graph")
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
    remove_in_place_(graph_module, example)
    return graph_module


def _own_behavior(module: nn.Module) -> str:
    """What a module does besides what its class does; empty if nothing."""
    if module._forward_pre_hooks or module._forward_hooks:
        return "a forward hook"
    return next(
        (f"the {name} set" for name in ("forward", "_conv_forward") if name in vars(module)), ""
    )


def _trace_export(model: nn.Module, example: Tensor) -> fx.GraphModule:
    batch = torch.export.Dim("batch", min=1)
    with quiet():
        # Not strict: the modules' own code runs, so that tracebacks show where it failed.
        program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},), strict=False)
    try:
        return _lifted(program, example)
    except CaptureError:  # changes in place that others see
        with quiet():
            return _lifted(program.run_decompositions({}), example)


def _lifted(program: torch.export.ExportedProgram, example: Tensor) -> fx.GraphModule:
    graph_module = program.module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    graph_module = lift_layers(graph_module)
    remove_in_place_(graph_module, example)
    return graph_module


@torch.no_grad()
def check_outputs(
    graph_module: fx.GraphModule, example: Tensor, before: Tensor, *, step: str, hint: str
) -> None:
    """Check that a rewriting step has not changed the outputs.

    Raises:
        CaptureError: if it has, with the hint.
    """
    error = output_error(graph_module(example), before)
    if not error <= FOLD_TOLERANCE:
        raise CaptureError(
            f"{step} changed the outputs by {error:.2%} (at most {FOLD_TOLERANCE:.1%} is numerical "
            f"noise); {hint}"
        )
