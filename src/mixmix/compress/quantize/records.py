"""Records of a quantized network: the bits of each layer, or why it stayed in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, fx, nn

from mixmix.compress.method import LayerRecord
from mixmix.compress.quantize.learnable import LearnableLayer
from mixmix.graph.batch_norm import BatchNorm
from mixmix.graph.calls import attributes_read, count_calls
from mixmix.graph.ops import product_calls

__all__ = ["record_layers"]

_QUANTIZED_KINDS = "only Conv2d and Linear layers are quantized"


def record_layers(
    original: nn.Module,
    graph_module: fx.GraphModule,
    folded: dict[str, str],
    input_bits: dict[str, int],
    errors: dict[str, float],
    masks: Mapping[str, Tensor],
) -> tuple[LayerRecord, ...]:
    """A record of each layer with parameters, then of each product of activations.

    Args:
        original: the caller's model.
        graph_module: the graph that was captured from it, with learnable layers.
        folded: the layer that each BatchNorm was folded into, by the name of the BatchNorm.
        input_bits: input bits by layer name.
        errors: relative squared error of each layer's unit, by layer name.
        masks: masks of pruned weights by layer name, True where a weight is kept.
    """
    modules = dict(graph_module.named_modules())
    own = dict(original.named_modules())
    calls, read = count_calls(graph_module), attributes_read(graph_module)

    def quantized(name: str, layer: LearnableLayer, record: LayerRecord) -> LayerRecord:
        return replace(
            record,
            action="quantized",
            weight_bits=layer.bits,
            activation_bits=input_bits.get(name),
            error=errors.get(name),
            sparsity=1 - float(masks[name].float().mean()) if name in masks else None,
        )

    records = []
    for name, module in own.items():
        parameters = dict(module.named_parameters(recurse=False))
        if not parameters:
            continue
        count = sum(p.numel() for p in parameters.values())
        record = LayerRecord(name, type(module).__name__, "skipped", num_parameters=count)
        layer = modules.get(name)
        if isinstance(layer, LearnableLayer):
            record = quantized(name, layer, record)
        elif name in folded:
            record = replace(record, action="folded", reason=f"into {folded[name]}")
        else:
            paths = [f"{name}.{parameter}".removeprefix(".") for parameter in parameters]
            # torch.export inlines modules and reads their parameters.
            used = any(path in read or path.replace(".", "_") in read for path in paths)
            parts = [
                path for path in modules if path not in own and path.rpartition(".")[0] == name
            ]
            parts = [path for path in parts if isinstance(modules[path], LearnableLayer)]
            record = replace(record, reason=_reason(module, parts, used=used or name in calls))
        records.append(record)
    for name, layer in modules.items():
        if isinstance(layer, LearnableLayer) and name not in own:
            kind = type(layer.layer).__name__
            count = sum(p.numel() for p in layer.layer.parameters())
            records.append(
                quantized(name, layer, LayerRecord(name, kind, "", num_parameters=count))
            )
    for name, kind in product_calls(graph_module).items():
        reason = f"{kind} of activations stays in float: {_QUANTIZED_KINDS}"
        records.append(LayerRecord(name, kind, "skipped", reason))
    return tuple(records)


def _reason(module: nn.Module, parts: list[str], *, used: bool) -> str:
    """Why a module with parameters was not quantized."""
    kind = type(module).__name__
    if parts:
        return f"its weights are quantized as {', '.join(parts)}"
    if not used:
        return "not called in the forward pass"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"Conv2d with padding_mode={module.padding_mode!r} stays in float: 'zeros' does not"
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return f"the weights of this {kind} are computed in the forward pass, and stay in float"
    if isinstance(module, BatchNorm):
        return f"{kind} that cannot be folded into a layer stays in float: {_QUANTIZED_KINDS}"
    if next(module.children(), None) is not None:
        return f"parameters that {kind} uses outside of its layers stay in float"
    return f"{kind} stays in float: {_QUANTIZED_KINDS}"
