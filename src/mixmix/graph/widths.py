"""Replacement of numbers of channels that are hard-coded in a network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from mixmix.errors import raise_if_out_of_memory
from mixmix.graph.agreement import output_error
from mixmix.graph.calls import is_call_to
from mixmix.graph.copies import detached_copy
from mixmix.graph.edit import replace_by_module
from mixmix.graph.ops import has_kind, zero_padding

__all__ = ["without_fixed_widths"]

_TOLERANCE = 1e-3
_RESHAPES = ("view", "reshape", torch.reshape)


def without_fixed_widths(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy without hard-coded numbers of channels, so that channels can be removed.

    Shortcuts without parameters (option A of He et al. 2016, section 4.2), which subsample and pad
    channels with zeros, become convolutions whose weights are zeros and ones; ``x.view(-1, 400)``
    becomes ``flatten``.

    Args:
        model: it is not changed.
        example: (N, C, H, W) normalized images.

    Returns:
        The copy; a plain copy if there is nothing to replace or torch.fx cannot trace the model.
    """
    copied = detached_copy(model)
    try:
        graph_module = fx.symbolic_trace(copied)
        pads = [node for node in graph_module.graph.nodes if _pads_channels(node)]
        reshapes = [node for node in graph_module.graph.nodes if is_call_to(node, *_RESHAPES)]
        if not pads and not reshapes:
            return copied
        ShapeProp(graph_module).propagate(example)
        flattenings = [node for node in reshapes if _flattens_to_a_number(node)]
        if not pads and not flattenings:
            return copied
        for index, node in enumerate(pads):
            _replace_pad(graph_module, node, f"channel_pad_{index}")
        for node in flattenings:
            node.op, node.target = "call_function", torch.flatten
            node.args, node.kwargs = (node.args[0], 1), {}
        graph_module.graph.eliminate_dead_code()
        graph_module.recompile()
        with torch.no_grad():
            error = output_error(graph_module(example), model(example))
    except Exception as failure:  # tracers raise whatever the model's own code raises
        raise_if_out_of_memory(failure)
        return copied
    return graph_module.to(example.device).eval() if error <= _TOLERANCE else copied


def _flattens_to_a_number(node: fx.Node) -> bool:
    """Whether a node reshapes (N, ...) to (N, number) with a hard-coded number."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return False
    before, after = (n.meta["tensor_meta"].shape for n in (source, node))
    named = node.args[-1][-1] if isinstance(node.args[-1], (tuple, list)) else node.args[-1]
    return len(before) >= 2 and after == (before[0], math.prod(before[1:])) and named == after[1]


def _padding(node: fx.Node) -> tuple[int, int] | None:
    """Numbers of zero channels before and after; None if a node does not pad channels."""
    pad = zero_padding(node)
    if pad is None or len(pad) != 6:
        return None
    if not all(isinstance(size, int) for size in pad) or any(pad[:4]) or min(pad[4:]) < 0:
        return None
    return pad[4], pad[5]


def _pads_channels(node: fx.Node) -> bool:
    return has_kind(node, "pad") and _padding(node) is not None


def _replace_pad(graph_module: fx.GraphModule, node: fx.Node, name: str) -> None:
    padding = _padding(node)
    source = node.args[0] if node.args else node.kwargs["input"]
    assert padding is not None and isinstance(source, fx.Node)
    num_channels = source.meta["tensor_meta"].shape[1]
    strides = _subsampling(source)
    if strides is not None:
        source = source.all_input_nodes[0]
    layer = nn.Conv2d(
        num_channels, sum(padding) + num_channels, 1, stride=strides or (1, 1), bias=False
    )
    with torch.no_grad():
        layer.weight.zero_()
        channels = torch.arange(num_channels)
        layer.weight[padding[0] + channels, channels] = 1
    replace_by_module(graph_module, node, name, layer.requires_grad_(False), takes=source)


def _subsampling(node: fx.Node) -> tuple[int, int] | None:
    """Strides of ``x[:, :, ::a, ::b]``, or None."""
    if not has_kind(node, "index"):
        return None
    index = node.args[1]
    if not (isinstance(index, tuple) and len(index) == 4 and index[:2] == (slice(None),) * 2):
        return None
    strides = []
    for part in index[2:]:
        if not isinstance(part, slice) or part.start not in (None, 0) or part.stop is not None:
            return None
        stride = 1 if part.step is None else part.step
        if not (isinstance(stride, int) and stride >= 1):
            return None
        strides.append(stride)
    return strides[0], strides[1]
