"""Where quantizers go in a graph."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mixmix.capture import ADDITIONS, CONCATENATIONS, is_call_to, module_of
from mixmix.compression.learnable import LearnableActivation, LearnableLayer
from mixmix.errors import InputError

__all__ = ["check_layer_names", "input_quantizers", "insert_quantizers"]

# Operations that only move values or choose among them: quantizing before them is the same as
# quantizing after them, and lets integer kernels join the quantizer to the layer before.
_TRANSPARENT_MODULES = (nn.MaxPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
_TRANSPARENT_CALLS = (
    torch.flatten,
    F.max_pool2d,
    F.dropout,
    "flatten",
    "view",
    "reshape",
    "contiguous",
    torch.ops.aten.max_pool2d,
    torch.ops.aten.flatten,
    torch.ops.aten.view,
    torch.ops.aten.reshape,
    torch.ops.aten.dropout,
    *CONCATENATIONS,
)
# What 8-bit integer kernels exist for beside the layers themselves.
_JOINING_CALLS = (
    *ADDITIONS,
    *CONCATENATIONS,
    F.adaptive_avg_pool2d,
    F.avg_pool2d,
    torch.ops.aten.adaptive_avg_pool2d,
    torch.ops.aten.avg_pool2d,
)
_JOINING_MODULES = (nn.AdaptiveAvgPool2d, nn.AvgPool2d)


def insert_quantizers(
    graph_module: fx.GraphModule,
    *,
    weight_bits: int,
    activation_bits: int,
    first_last_bits: int | None,
    input_bits: int | None,
    per_channel: bool,
    symmetric_weights: bool = True,
    symmetric_activations: bool = False,
    keep_probability: float,
    layer_bits: Mapping[str, tuple[int, int]] | None = None,
    kept: Mapping[str, Tensor] | None = None,
) -> dict[str, int]:
    """Replace layers by learnable ones and quantize every tensor that enters one, in place.

    A tensor is quantized once, for all that use it (so that a residual shortcut carries the
    quantized tensor too), at the largest number of bits that a layer behind it asks for. With
    8-bit activations the operands of additions, concatenations and average pooling are quantized
    too, so that integer kernels run from one end to the other. The images are quantized to
    ``input_bits`` whatever the layers behind them ask for, unless it is None.

    Args:
        layer_bits: bits of the weights and of the input of single layers, by their names; they
            go before the others.
        kept: by the name of a layer that was pruned, bool of its weight's shape: what is False
            is zero, and stays so.

    Returns:
        The bits of the input of each quantized layer, by its name, in order of execution.

    Raises:
        InputError: if ``layer_bits`` names what is no quantizable layer.
    """
    layer_bits = layer_bits or {}
    modules = dict(graph_module.named_modules())
    calls = [node for node in graph_module.graph.nodes if _is_quantizable(module_of(node, modules))]
    names = list(dict.fromkeys(str(node.target) for node in calls))
    check_layer_names(layer_bits, names)
    bits_of_source: dict[fx.Node, int] = {}
    sources_of_call = [_sources(node.args[0], modules) for node in calls]
    for node, sources in zip(calls, sources_of_call, strict=True):
        name = str(node.target)
        own_weight_bits, own_activation_bits = weight_bits, activation_bits
        if first_last_bits is not None and name in (names[0], names[-1]):
            own_weight_bits = own_activation_bits = first_last_bits
        own_weight_bits, own_activation_bits = layer_bits.get(
            name, (own_weight_bits, own_activation_bits)
        )
        if not isinstance(graph_module.get_submodule(name), LearnableLayer):
            learnable = LearnableLayer(
                modules[name],
                own_weight_bits,
                per_channel=per_channel,
                symmetric=symmetric_weights,
                kept=(kept or {}).get(name),
            )
            graph_module.set_submodule(name, learnable)
        for source in sources:
            bits_of_source[source] = max(bits_of_source.get(source, 0), own_activation_bits)
    if activation_bits == 8:
        for node in graph_module.graph.nodes:
            joins = is_call_to(node, *_JOINING_CALLS) or isinstance(
                module_of(node, modules), _JOINING_MODULES
            )
            for operand in node.all_input_nodes if joins else ():
                for source in _sources(operand, modules):
                    bits_of_source.setdefault(source, 8)
    if input_bits is not None:
        bits_of_source |= {
            source: input_bits for source in bits_of_source if source.op == "placeholder"
        }
    for index, (source, bits) in enumerate(bits_of_source.items()):
        _insert_after(
            graph_module,
            source,
            f"activation_quantizer_{index}",
            LearnableActivation(
                bits,
                keep_probability=keep_probability if bits < 8 else 1.0,
                symmetric=symmetric_activations,
            ),
        )
    graph_module.recompile()
    return {
        str(node.target): min(bits_of_source[source] for source in sources)
        for node, sources in zip(calls, sources_of_call, strict=True)
    }


def input_quantizers(graph_module: fx.GraphModule) -> dict[str, tuple[str, ...]]:
    """For each layer of a graph with quantizers, in order, those that its input comes through."""
    modules = dict(graph_module.named_modules())
    found: dict[str, dict[str, None]] = {}
    for node in graph_module.graph.nodes:
        if isinstance(module_of(node, modules), LearnableLayer):
            sources = _sources(node.args[0], modules)
            found.setdefault(str(node.target), {}).update({str(s.target): None for s in sources})
    return {name: tuple(sources) for name, sources in found.items()}


def check_layer_names(names: Collection[str], known: Collection[str]) -> None:
    """Refuse names of layers that a network does not have.

    Raises:
        InputError: naming the nearest that it has.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
            raise InputError(
                f"no layer that can be quantized is called {name!r}; the nearest names are "
                f"{', '.join(map(repr, near)) or 'none'}"
            )


def _is_quantizable(module: nn.Module | None) -> bool:
    return type(module) is nn.Linear or (
        type(module) is nn.Conv2d and module.padding_mode == "zeros"
    )


def _sources(node: fx.node.Argument, modules: dict[str, nn.Module]) -> list[fx.Node]:
    """The tensors behind transparent operations: quantizing them quantizes ``node``."""
    assert isinstance(node, fx.Node)
    transparent = is_call_to(node, *_TRANSPARENT_CALLS) or isinstance(
        module_of(node, modules), _TRANSPARENT_MODULES
    )
    if not transparent:
        return [node] if node.op != "get_attr" else []
    tensors = node.args[0] if isinstance(node.args[0], (list, tuple)) else [node.args[0]]
    return [source for tensor in tensors for source in _sources(tensor, modules)]


def _insert_after(
    graph_module: fx.GraphModule, source: fx.Node, name: str, quantizer: nn.Module
) -> None:
    graph_module.add_submodule(name, quantizer)
    with graph_module.graph.inserting_after(source):
        inserted = graph_module.graph.call_module(name, (source,))
    source.replace_all_uses_with(
        inserted, delete_user_cb=lambda user: user is not inserted, propagate_meta=False
    )
