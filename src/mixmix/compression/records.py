"""The record of a quantized network: what happened to each of its layers, and why."""

from __future__ import annotations

from dataclasses import replace

from torch import fx, nn

from mixmix.compression.learnable import LearnableLayer
from mixmix.compression.method import LayerRecord

__all__ = ["record_layers"]


def record_layers(
    original: nn.Module,
    graph_module: fx.GraphModule,
    folded: dict[str, str],
    input_bits: dict[str, int],
    errors: dict[str, float],
) -> tuple[LayerRecord, ...]:
    """One record for every layer of the original that has parameters of its own."""
    records = []
    kept = dict(graph_module.named_modules())
    for name, module in original.named_modules():
        num_parameters = sum(p.numel() for p in module.parameters(recurse=False))
        if not num_parameters:
            continue
        quantized = kept.get(name)
        record = LayerRecord(name, type(module).__name__, "skipped", num_parameters=num_parameters)
        if isinstance(quantized, LearnableLayer):
            record = replace(
                record,
                action="quantized",
                weight_bits=quantized.bits,
                activation_bits=input_bits.get(name),
                error=errors.get(name),
            )
        elif name in folded:
            record = replace(record, action="folded", reason=f"into {folded[name]}")
        elif quantized is None:
            record = replace(record, reason="not called in the forward pass")
        else:
            record = replace(
                record,
                reason=f"{type(module).__name__} stays in floats: only Conv2d and Linear "
                "layers are quantized",
            )
        records.append(record)
    return tuple(records)
