"""Layer records of a network with fewer channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn
from torch.nn.modules.conv import _ConvNd

from mixmix.compress.method import LayerRecord, skipped_layers
from mixmix.compress.prune.channels.costs import layer_widths
from mixmix.graph.batch_norm import BatchNorm
from mixmix.graph.channels.groups import ChannelGroup

__all__ = ["record_channels"]


def record_channels(
    original: nn.Module,
    pruned: nn.Module,
    groups: Sequence[ChannelGroup],
    reasons: Mapping[str, str],
) -> tuple[LayerRecord, ...]:
    """A record of every layer with parameters, then of layers that the original does not have.

    ``reasons`` says why layers outside of ``groups`` cannot be pruned, by name.
    """
    before: dict[str, nn.Module] = dict(original.named_modules())
    after: dict[str, nn.Module] = dict(pruned.named_modules())
    prunable = {part.layer for group in groups for part in group.parts}
    records = []
    for module, record in skipped_layers(original):
        remaining = after.get(record.name, module)
        old, new = _channels(module), _channels(remaining)
        count = sum(p.numel() for p in remaining.parameters(recurse=False))
        if old != new or count != record.num_parameters:
            record = replace(record, action="pruned")
        else:
            default = "no channels were pruned" if record.name in prunable else "not prunable"
            record = replace(record, reason=reasons.get(record.name) or default)
        if old is not None and new is not None:
            inputs, outputs = zip(old, new, strict=True)
            record = replace(record, in_channels=inputs, out_channels=outputs)
        records.append(record)
    for name, module in after.items():
        if name not in before and next(module.parameters(recurse=False), None) is not None:
            reason = "pads channels with zeros; replaces code outside of layers"
            records.append(LayerRecord(name, type(module).__name__, "added", reason))
    return tuple(records)


def _channels(module: nn.Module) -> tuple[int, int] | None:
    """Input and output channels (or features), if the module has them."""
    if isinstance(module, nn.Linear | _ConvNd):
        return layer_widths(module)
    if isinstance(module, BatchNorm):
        return module.num_features, module.num_features
    return None
