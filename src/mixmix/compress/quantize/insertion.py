"""Insert quantizers into a graph: of weights, and of the tensors between the layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, fx, nn

from mixmix.compress.quantize.learnable import LearnableActivation, LearnableLayer
from mixmix.graph.calls import name_of
from mixmix.graph.edit import insert_module_after
from mixmix.graph.layers import check_layer_names
from mixmix.graph.placement import Operands

__all__ = ["input_quantizers", "insert_quantizers"]

# Bits of tensors that are added, concatenated or pooled: kernels for these operations are no faster
# with fewer bits.
_JOINED_BITS = 8


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
    quantize_prob: float,
    layer_bits: Mapping[str, tuple[int, int] | None] | None = None,
    masks: Mapping[str, Tensor] | None = None,
) -> dict[str, int]:
    """Replace layers by learnable ones and quantize the tensors between them, in place.

    A tensor that only layers read is quantized once, to the most bits that one of them asks for. A
    tensor that is added, concatenated, pooled, or passed from a convolution to another function
    (see ``placement``) is quantized to 8 bits, and again for layers that ask for fewer. What is in
    a stream that stays in float is quantized for the layers that read it alone. Images are
    quantized to ``input_bits``, unless it is None, and so is what is made of them without a layer.

    Args:
        layer_bits: weight and input bits by layer name, or None for layers that stay in float; they
            override the other settings.
        masks: masks of pruned weights by layer name, True where a weight is kept.

    Returns:
        Input bits by layer name, in execution order.

    Raises:
        InputError: if ``layer_bits`` names a layer that does not exist or cannot be quantized.
    """
    layer_bits = layer_bits or {}
    calls = Operands(graph_module, is_layer=_is_quantizable).layers()
    check_layer_names(layer_bits, {str(call.target) for call in calls})
    kept = {id(graph_module.get_submodule(n)) for n, own in layer_bits.items() if own is None}
    operands = Operands(
        graph_module, is_layer=lambda each: _is_quantizable(each) and id(each) not in kept
    )
    calls = operands.layers()
    names = list(dict.fromkeys(str(call.target) for call in calls))
    bits = dict.fromkeys(names, (weight_bits, activation_bits))
    if first_last_bits is not None and names:
        bits |= dict.fromkeys((names[0], names[-1]), (first_last_bits, first_last_bits))
    bits |= {name: own for name, own in layer_bits.items() if own is not None}

    sources: dict[fx.Node, fx.Node] = {}
    for call in calls:
        source = operands.source(call.args[0])
        if source is not None:
            sources[call] = source
    requested: dict[fx.Node, int] = {}
    for call, source in sources.items():
        requested[source] = max(requested.get(source, 0), bits[str(call.target)][1])
    shared = {
        source: most for source, most in requested.items() if not operands.is_for_float(source)
    }
    shared |= dict.fromkeys(operands.joined(), _JOINED_BITS)
    for source in shared:
        if operands.is_image(source) and input_bits is not None:
            shared[source] = requested[source] = input_bits
    narrowed: dict[fx.Node, list[fx.Node]] = {}
    for call, source in sources.items():
        if source not in shared or requested[source] < shared[source]:
            narrowed.setdefault(call.all_input_nodes[0], []).append(call)

    for name, (own_bits, _) in bits.items():
        layer = graph_module.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        learnable = LearnableLayer(
            layer,
            own_bits,
            per_channel=per_channel,
            symmetric=symmetric_weights,
            mask=(masks or {}).get(name),
        )
        graph_module.set_submodule(name, learnable)

    def quantize(source: fx.Node, source_bits: int, users: Collection[fx.Node]) -> fx.Node:
        quantizer = LearnableActivation(
            source_bits,
            quantize_prob=quantize_prob if source_bits < 8 else 1.0,
            symmetric=symmetric_activations,
            place=_place(source, sources),
        )
        index = sum(isinstance(module, LearnableActivation) for module in graph_module.children())
        name = f"activation_quantizer_{index}"
        return insert_module_after(graph_module, source, name, quantizer, users=users)

    quantized = {
        source: quantize(source, source_bits, tuple(source.users))
        for source, source_bits in shared.items()
    }
    for node, users in narrowed.items():
        quantize(quantized.get(node, node), requested[sources[users[0]]], users)
    graph_module.recompile()
    found: dict[str, int] = {}
    for call, source in sources.items():
        name = str(call.target)
        found[name] = min(requested[source], found.get(name, requested[source]))
    return found


def _place(source: fx.Node, sources: Mapping[fx.Node, fx.Node]) -> str:
    """Where a tensor is, for error messages."""
    readers = [str(call.target) for call, read in sources.items() if read is source]
    return f"the output of {name_of(source)}" + (f", the input of {readers[0]}," if readers else "")


def input_quantizers(graph_module: fx.GraphModule) -> dict[str, tuple[str, ...]]:
    """Names of the quantizers of each layer's input, by layer name, in execution order."""
    operands = Operands(graph_module, is_layer=lambda module: isinstance(module, LearnableLayer))
    found: dict[str, dict[str, None]] = {}
    for call in operands.layers():
        source = operands.source(call.args[0])
        names = {} if source is None else {str(source.target): None}
        found.setdefault(str(call.target), {}).update(names)
    return {name: tuple(sources) for name, sources in found.items()}


def _is_quantizable(module: nn.Module) -> bool:
    return type(module) is nn.Linear or (
        type(module) is nn.Conv2d and module.padding_mode == "zeros"
    )
